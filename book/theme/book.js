// The book's own script: no library, works from file://. Everything on the page can be read without it.
(() => {
  "use strict";
  const root = document.documentElement;
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
  const way = root.dataset.root;
  const isFile = location.protocol === "file:";

  // From file:// a folder has no index page of its own.
  const mend = (url) => (isFile ? url.replace(/(^|\/)(#|$)/, (m, slash, hash) => `${slash}index.html${hash}`) : url);
  const mendLinks = (within) => {
    if (!isFile) return;
    for (const a of $$("a[href]", within)) {
      const href = a.getAttribute("href");
      if (!/^([a-z]+:|#)/i.test(href) && /\/(#|$)/.test(href)) a.setAttribute("href", mend(href));
    }
  };
  mendLinks(document);

  const load = (name) =>
    new Promise((done, fail) => {
      const script = document.createElement("script");
      script.src = `${way}assets/${name}.js`;
      script.onload = done;
      script.onerror = fail;
      document.head.append(script);
    });

  // Light and dark
  const scheme = $(".b-scheme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const showScheme = () => scheme.setAttribute("aria-pressed", String(isDark()));
  scheme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("book-theme", root.dataset.theme); } catch { /* a private window keeps nothing */ }
    showScheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showScheme);
  showScheme();

  // Contents as a drawer on narrow windows
  const menu = $(".b-menu"), contents = $(".b-contents"), shade = $(".b-shade");
  const drawer = (open) => {
    root.classList.toggle("b-drawer", open);
    menu.setAttribute("aria-expanded", String(open));
    shade.hidden = !open;
    if (open) ($("[aria-current]", contents) || $("a", contents)).focus();
  };
  menu.addEventListener("click", () => drawer(menu.getAttribute("aria-expanded") !== "true"));
  shade.addEventListener("click", () => drawer(false));
  contents.addEventListener("click", (event) => event.target.closest("a") && drawer(false));
  const here = $("[aria-current]", contents);
  if (here && here.offsetTop > contents.clientHeight - 60) contents.scrollTop = here.offsetTop - contents.clientHeight / 2;

  // Outline follows the text
  const marks = $$(".b-outline a").map((a) => [a, document.getElementById(decodeURIComponent(a.hash.slice(1)))]).filter((m) => m[1]);
  if (marks.length) {
    let due = false;
    const follow = () => {
      due = false;
      const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 4;
      const passed = marks.filter(([, h]) => h.getBoundingClientRect().top < 140);
      const now = (atEnd && marks.at(-1)) || passed.at(-1) || marks[0];
      for (const [a] of marks) a === now[0] ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current");
    };
    addEventListener("scroll", () => { if (!due) { due = true; requestAnimationFrame(follow); } }, { passive: true });
    follow();
  }

  // Copy
  for (const block of $$(".b-code")) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "b-copy", textContent: "Copy" });
    button.setAttribute("aria-label", "Copy code");
    button.addEventListener("click", async () => {
      const words = $("pre", block).textContent;
      try {
        await navigator.clipboard.writeText(words);
      } catch {
        const area = Object.assign(document.createElement("textarea"), { value: words });
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
      }
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1600);
    });
    block.append(button);
  }

  // Tabs: those with the same key change together
  const choose = (tab) => {
    const set = tab.closest(".b-tabs");
    for (const other of $$(":scope > [role=tablist] > [role=tab]", set)) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
    }
  };
  for (const tab of $$(".b-tabs [role=tab]")) {
    tab.addEventListener("click", () => {
      choose(tab);
      if (tab.dataset.sync) $$(`.b-tabs [data-sync="${CSS.escape(tab.dataset.sync)}"]`).forEach(choose);
    });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const tabs = $$("[role=tab]", tab.parentElement);
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  }

  // A link into something folded opens it
  const unfold = () => {
    let target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let up = target; up; up = up.parentElement) {
      if (up.tagName === "DETAILS") up.open = true;
      if (up.getAttribute("role") === "tabpanel" && up.hidden) choose(document.getElementById(up.getAttribute("aria-labelledby")));
    }
    target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();
  addEventListener("beforeprint", () => $$("details:not(.b-fold)").forEach((d) => (d.open = true)));

  // Previews of figures, equations, terms and citations
  const card = Object.assign(document.createElement("div"), { className: "b-preview b-text", hidden: true });
  card.setAttribute("role", "tooltip");
  card.id = "preview";
  document.body.append(card);
  let timer, owner;
  const hide = () => {
    clearTimeout(timer);
    timer = setTimeout(() => { card.hidden = true; owner?.removeAttribute("aria-describedby"); owner = null; }, 180);
  };
  const show = async (link) => {
    let html;
    if (link.matches(".b-cite")) {
      html = document.getElementById(decodeURIComponent(link.hash.slice(1)))?.innerHTML;
    } else {
      if (!window.BOOK_PREVIEWS) await load("previews");
      html = window.BOOK_PREVIEWS[link.dataset.preview]?.replaceAll("\u0002", way);
    }
    if (!html || !(link.matches(":hover") || link === document.activeElement)) return;
    if (html.includes("katex") && !$('link[href$="katex.css"]')) {
      document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: `${way}assets/katex.css` }));
    }
    card.innerHTML = html;
    $$("[tabindex]", card).forEach((e) => e.removeAttribute("tabindex"));
    mendLinks(card);
    card.hidden = false;
    const at = link.getBoundingClientRect(), size = card.getBoundingClientRect();
    const above = at.bottom + size.height + 16 > innerHeight && at.top > size.height + 80;
    card.style.left = `${Math.max(12, Math.min(at.left - 24, innerWidth - size.width - 12)) + scrollX}px`;
    card.style.top = `${(above ? at.top - size.height - 8 : at.bottom + 8) + scrollY}px`;
    owner = link;
    link.setAttribute("aria-describedby", "preview");
  };
  for (const link of $$("main [data-preview], main .b-cite")) {
    const start = () => { clearTimeout(timer); timer = setTimeout(() => show(link), 220); };
    link.addEventListener("mouseenter", start);
    link.addEventListener("focus", start);
    link.addEventListener("mouseleave", hide);
    link.addEventListener("blur", hide);
  }
  card.addEventListener("mouseenter", () => clearTimeout(timer));
  card.addEventListener("mouseleave", hide);

  // Search
  const dialog = $(".b-search"), field = $("input", dialog), list = $("#found"), none = $(".b-none", dialog);
  const fold = (s) => s.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  let records, chosen = -1;
  const open = async () => {
    drawer(false);
    if (!dialog.open) dialog.showModal();
    field.select();
    if (!records) {
      await load("search");
      records = window.BOOK_SEARCH.map((r) => ({ ...r, fp: fold(r.p), fh: fold(r.h), fb: fold(r.b) }));
      find();
    }
  };
  const score = (record, words) => {
    let sum = 0;
    for (const word of words) {
      const start = new RegExp(`(^|[^\\p{L}\\p{N}])${word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}`, "gu");
      const inHead = start.test(record.fh), inPage = new RegExp(start.source, "u").test(record.fp);
      const inBody = (record.fb.match(start) || []).length;
      if (!inHead && !inPage && !inBody) return 0;
      sum += (inHead ? 12 : 0) + (inPage ? (record.h ? 3 : 14) : 0) + Math.min(inBody, 5);
    }
    return sum;
  };
  const escape = (s) => s.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const mark = (text, words) => {
    const pattern = new RegExp(`(${words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "giu");
    return escape(text).replace(pattern, "<mark>$1</mark>");
  };
  const find = () => {
    const words = fold(field.value).split(/\s+/).filter(Boolean);
    chosen = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
    list.innerHTML = "";
    none.textContent = "";
    if (!records || !words.length) return;
    const hits = records.map((r) => [score(r, words), r]).filter((h) => h[0]).sort((a, b) => b[0] - a[0]).slice(0, 12);
    if (!hits.length) { none.textContent = "Nothing found. Try fewer or shorter words."; return; }
    field.setAttribute("aria-expanded", "true");
    list.innerHTML = hits.map(([, r], i) => {
      const at = Math.max(0, r.fb.indexOf(words[0]) - 50);
      const text = (at ? "…" : "") + r.b.slice(at, at + 150) + (r.b.length > at + 150 ? "…" : "");
      return `<a role="option" id="hit-${i}" tabindex="-1" aria-selected="false" href="${escape(mend(way + r.u))}"><b>${mark(r.h || r.p, words)}</b>` +
        `${r.h ? `<small>${escape(r.p)}</small>` : ""}<span>${mark(text, words)}</span></a>`;
    }).join("");
    pick(0);
  };
  const pick = (index) => {
    const hits = $$("a", list);
    if (!hits.length) return;
    chosen = (index + hits.length) % hits.length;
    hits.forEach((a, i) => a.setAttribute("aria-selected", String(i === chosen)));
    hits[chosen].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", hits[chosen].id);
  };
  field.addEventListener("input", find);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); pick(chosen + 1); }
    else if (event.key === "ArrowUp") { event.preventDefault(); pick(chosen - 1); }
    else if (event.key === "Escape") { event.preventDefault(); dialog.close(); }
    else if (event.key === "Enter") { event.preventDefault(); $$("a", list)[chosen]?.click(); }
  });
  list.addEventListener("click", (event) => event.target.closest("a") && dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  $(".b-find").addEventListener("click", open);
  addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName);
    if ((event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) || (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey)) {
      event.preventDefault();
      open();
    } else if (event.key === "Escape") {
      card.hidden = true;
      if (root.classList.contains("b-drawer")) { drawer(false); menu.focus(); }
    }
  });
  if (/Mac|iPhone|iPad/.test(navigator.platform)) {
    $(".b-find kbd").textContent = "⌘ K";
    $(".b-find").setAttribute("aria-label", "Search ⌘ K");
  }
})();
