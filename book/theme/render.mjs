// Called by `myst build --html` in this folder: runs the Python renderer with the book's own environment, if there is one.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..", "..");
const out = process.env.BUILD_DIRECTORY;
if (!out) {
  console.error("BUILD_DIRECTORY is not set: this script is called by `myst build --html`. Next: make book");
  process.exit(2);
}
const python = [
  join(root, ".venv", "bin", "python"),
  join(root, ".venv", "Scripts", "python.exe"),
  ...(process.env.VIRTUAL_ENV ? [join(process.env.VIRTUAL_ENV, "bin", "python")] : []),
].find(existsSync) ?? "python3";
const site = join(dirname(out), "site");
const done = spawnSync(python, ["-m", "book.theme", "--site", site, "--out", out], { cwd: root, stdio: "inherit" });
process.exit(done.status ?? 1);
