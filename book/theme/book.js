// No framework: contents drawer, light and dark, copy, search, outline, hover previews. Works from file:// too.
(() => {
  const up = document.body.dataset.up, $ = (s, e = document) => e.querySelector(s), $$ = (s, e = document) => [...e.querySelectorAll(s)];
  const menu = $("#menu");
  const drawer = open => { document.body.classList.toggle("open", open); menu.setAttribute("aria-expanded", open); };
  menu.onclick = () => drawer(!document.body.classList.contains("open"));
  $("main").addEventListener("click", () => drawer(false));

  $("#theme").onclick = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("book-theme", next); } catch { /* private mode: the choice lasts for this page */ }
  };

  for (const button of $$(".copy")) button.onclick = async () => {
    const text = $("code", button.parentElement).textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
    }
    button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  for (const tab of $$(".tabs > input")) tab.onchange = () => {
    for (const other of $$(`.tabs > input[data-sync="${CSS.escape(tab.dataset.sync)}"]`)) other.checked = true;
  };

  const links = new Map($$("#outline a").map(a => [a.hash.slice(1), a]));
  if (links.size) {
    const spy = () => {
      let here = null;
      for (const [id, a] of links) { const el = document.getElementById(id); if (el && el.getBoundingClientRect().top < 120) here = a; a.classList.remove("here"); }
      here?.classList.add("here");
    };
    addEventListener("scroll", spy, { passive: true }); spy();
  }

  const box = $("#search"), field = $("input", box), list = $("ul", box);
  const fold = s => s.normalize("NFD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const html = s => s.replace(/[&<>"]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));
  const ready = () => window.BOOK_SEARCH ? Promise.resolve() : new Promise(done => document.head.append(Object.assign(document.createElement("script"), { src: up + "build/search.js", onload: done })));
  const open = async () => { await ready(); if (!box.open) box.showModal(); field.focus(); field.select(); };
  $("#find").onclick = open;
  addEventListener("keydown", e => {
    const typing = /INPUT|TEXTAREA/.test(document.activeElement?.tagName);
    if ((e.key === "k" && (e.ctrlKey || e.metaKey)) || (e.key === "/" && !typing)) { e.preventDefault(); open(); }
    if (e.key === "Escape") drawer(false);
  });
  const count = (text, word) => text.split(new RegExp(`(?:^|[^\\p{L}\\p{N}])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, "u")).length - 1;
  field.oninput = () => {
    const words = fold(field.value).split(/\s+/).filter(Boolean), found = [];
    for (const page of words.length ? window.BOOK_SEARCH : []) {
      const body = fold(page.x), title = fold(page.t);
      const heading = page.h.find(([, name]) => words.every(w => count(fold(name), w)));
      const score = words.map(w => 20 * count(title, w) + 8 * page.h.reduce((s, [, n]) => s + count(fold(n), w), 0) + Math.min(10, count(body, w)));
      if (score.every(Boolean)) found.push([score.reduce((a, b) => a + b), page, heading, body]);
    }
    found.sort((a, b) => b[0] - a[0]);
    list.innerHTML = found.slice(0, 12).map(([, page, heading, body]) => {
      const at = Math.max(0, body.indexOf(words[0]) - 50), text = html(page.x.slice(at, at + 150));
      const shown = words.reduce((t, w) => t.replace(new RegExp(`(${w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})`, "gi"), "<mark>$1</mark>"), text);
      return `<li><a href="${up}${page.u}${heading ? "#" + heading[0] : ""}"><b>${html(page.t)}</b>${heading ? " · " + html(heading[1]) : ""}<small>${shown}</small></a></li>`;
    }).join("") || (words.length ? "<li><small>Nothing found.</small></li>" : "");
  };
  field.onkeydown = e => { if (e.key === "Enter") { const first = $("a", list); if (first) location.href = first.href; } };
  list.addEventListener("click", () => box.close());

  let card = null, timer = 0;
  const hide = () => { clearTimeout(timer); card?.remove(); card = null; };
  const target = async link => {
    const url = new URL(link.href), id = decodeURIComponent(url.hash.slice(1));
    let doc = document;
    if (url.pathname !== location.pathname) {
      if (location.protocol === "file:") return null; // a browser does not read neighbouring files
      doc = new DOMParser().parseFromString(await (await fetch(url.pathname)).text(), "text/html");
      for (const img of $$("img", doc)) img.src = new URL(img.getAttribute("src"), url);
    }
    const el = id && doc.getElementById(id);
    return el?.tagName === "DT" ? [el, el.nextElementSibling] : el && [el];
  };
  for (const link of $$("a.xref, a.cite")) {
    const show = () => { clearTimeout(timer); timer = setTimeout(async () => {
      const nodes = await target(link);
      if (!nodes) return;
      hide();
      card = Object.assign(document.createElement("div"), { id: "preview" });
      card.setAttribute("role", "tooltip");
      for (const node of nodes) { const copy = node.cloneNode(true); copy.removeAttribute("id"); $$("[id]", copy).forEach(e => e.removeAttribute("id")); card.append(copy); }
      document.body.append(card);
      const r = link.getBoundingClientRect();
      card.style.left = Math.max(8, Math.min(r.left, innerWidth - card.offsetWidth - 8)) + scrollX + "px";
      card.style.top = (r.bottom + card.offsetHeight + 12 > innerHeight && r.top > card.offsetHeight ? r.top - card.offsetHeight - 6 : r.bottom + 6) + scrollY + "px";
      card.onmouseleave = hide;
    }, 250); };
    link.addEventListener("mouseenter", show); link.addEventListener("focus", show);
    link.addEventListener("mouseleave", () => { clearTimeout(timer); setTimeout(() => { if (card && !card.matches(":hover")) hide(); }, 200); });
    link.addEventListener("blur", hide);
  }
})();
