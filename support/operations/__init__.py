"""Operations: what runs outside the notebooks."""
