"use strict";
(() => {
  const EVERY_MS = 2000, GIB = 2 ** 30;
  const at = (id) => document.getElementById(id);
  const digits = (v) => v >= 99.95 ? v.toFixed(0) : v >= 9.995 ? v.toFixed(1) : v.toFixed(2);
  const seconds = (v) => v == null ? "-" : v < 0.9995 ? `${digits(v * 1e3)} ms` : `${digits(v)} s`;
  const size = (v) => v == null ? "-" : `${(v / GIB).toFixed(1)} GiB`;
  let seen = "";

  function row(m) {
    const line = document.createElement("tr"), head = document.createElement("th");
    head.scope = "row";
    head.textContent = m.model;
    line.className = "model";
    line.append(head);
    const cells = [
      m.requests_s.toFixed(2), m.tok_s.toFixed(1), m.in_flight, seconds(m.ttft_p50_s), seconds(m.ttft_p95_s),
      seconds(m.e2e_p95_s), seconds(m.itl_p95_s), m.cold, m.errors, m.state ?? "-", size(m.vram_used_bytes),
    ];
    for (const text of cells) line.append(Object.assign(document.createElement("td"), { textContent: text }));
    return line;
  }

  function links(said) {
    const made = said.links.map(([title, href]) => Object.assign(document.createElement("a"), { textContent: title, href }));
    at("links").replaceChildren(at("home"), ...made);
  }

  function charts(page) {
    if (window.tokenswarmShow) {
      window.tokenswarmShow(page);
    } else if (page.timeline.t_s.length && !document.querySelector("script[data-charts]")) {
      at("data").textContent = JSON.stringify(page);
      const script = document.createElement("script");
      script.src = "tokenswarm/assets/report.js";
      script.dataset.charts = "";
      document.body.append(script);
    }
  }

  function show(said) {
    links(said);
    const page = said.page;
    if (!page) return;
    const news = `${page.run_id} ${page.now_s} ${page.over}`;
    if (news === seen) return;
    seen = news;
    at("scenario").textContent = page.scenario ?? "a locustfile of its own";
    at("simulated").hidden = !page.simulated;
    at("run").textContent = page.run_id;
    at("state").textContent = page.over ? "over" : `running, ${Math.round(page.now_s)} s`;
    at("nogpu").hidden = page.timeline.memory.length > 0;
    at("models").tBodies[0].replaceChildren(...page.rows.map(row));
    charts(page);
  }

  async function poll() {
    try {
      const answer = await fetch("tokenswarm/data");
      if (answer.ok) show(await answer.json());
    } catch {
      at("state").textContent = "Locust does not answer any more";
    }
    setTimeout(poll, EVERY_MS);
  }

  poll();
})();
