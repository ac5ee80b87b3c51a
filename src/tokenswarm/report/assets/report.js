"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  let { models, timeline: line, events, offset_s: offset = 0 } = data;
  const GIB = 2 ** 30, LEFT = 92, GAP = 22;
  const STEPS = [.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
  const holder = document.getElementById("charts");
  const tip = document.getElementById("tip");
  const resetButton = document.getElementById("reset");
  const scaleButton = document.getElementById("scale");
  const hidden = new Set();
  let charts = [], zoom = [0, line.duration_s], logarithmic = true;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (model) => {
    const i = models.indexOf(model);
    return css(i < 0 ? "--other" : `--m${i % 8}`);
  };
  const alpha = (hex, a) => hex + Math.round(a * 255).toString(16).padStart(2, "0");
  const shown = () => models.filter((m) => !hidden.has(m));
  const digits = (v) => Math.abs(v) >= 99.95 ? v.toFixed(0) : Math.abs(v) >= 9.995 ? v.toFixed(1) : v.toFixed(2);
  const seconds = (v) => v == null ? "-" : Math.abs(v) < 0.9995 ? `${digits(v * 1e3)} ms` : `${digits(v)} s`;
  const clock = (t, places = 1) => {
    const v = t + offset;
    return v < 60 ? `${v.toFixed(places)} s` : `${Math.floor(v / 60)}:${(v % 60).toFixed(places).padStart(places ? 3 + places : 2, "0")}`;
  };
  const node = (tag, cls, text) => {
    const made = document.createElement(tag);
    if (cls) made.className = cls;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const ending = (e) => e.t5_s ?? e.t4_s ?? e.t0_s;

  // -- what every chart shares --------------------------------------------------------------------
  function bands(u, spec) {
    const { left, top, width, height } = u.bbox, ctx = u.ctx;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    // swaps overlap when they queue: each moment is shaded once, each start gets its edge
    for (const name of ["--cold", "--swap"]) {
      const mine = events.filter((e) => (name === "--swap") === Boolean(e.displaced));
      ctx.fillStyle = css(name);
      let until = -Infinity;
      for (const e of mine) {
        const x0 = Math.max(until, u.valToPos(e.t0_s, "x", true)), x1 = u.valToPos(ending(e), "x", true);
        if (x1 > x0) ctx.fillRect(x0, top, Math.max(1.5, x1 - x0), height);
        until = Math.max(until, x1);
      }
      ctx.fillStyle = css(`${name}-edge`);
      for (const e of mine) ctx.fillRect(u.valToPos(e.t0_s, "x", true), top, devicePixelRatio, height);
    }
    if (line.load_s < line.duration_s) {
      const x = u.valToPos(line.load_s, "x", true);
      ctx.fillStyle = css("--drain");
      ctx.fillRect(x, top, left + width - x, height);
      ctx.fillStyle = css("--faint");
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      if (spec.first) ctx.fillText("drain", x + 5 * devicePixelRatio, top + 12 * devicePixelRatio);
    }
    ctx.restore();
  }

  function axes(last, y) {
    const common = { stroke: css("--soft"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const places = zoom[1] - zoom[0] < 5 ? 1 : 0;
    return [
      { ...common, grid: { stroke: css("--grid"), width: 1 }, size: last ? 26 : 6, incrs: STEPS,
        values: (u, vals) => vals.map((v) => last ? clock(v, Number.isInteger(v) ? 0 : Math.max(1, places)) : "") },
      { ...common, grid: { stroke: css("--grid"), width: 1 }, size: LEFT, gap: 8, ...y },
    ];
  }

  function options(spec, width) {
    return {
      width, height: spec.height, legend: { show: false }, padding: [8, GAP, 0, 0],
      scales: { x: { time: false, range: () => zoom }, y: spec.scale },
      axes: axes(spec.last, spec.axis),
      series: spec.series, bands: spec.bands,
      cursor: {
        sync: { key: "run", scales: ["x", null], filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        drag: { x: true, y: false, setScale: false, dist: 4 }, y: false,
        points: { show: spec.points !== false, size: 7 },
        bind: { dblclick: () => () => { setZoom(0, line.duration_s); return null; } },
      },
      hooks: {
        drawClear: [(u) => bands(u, spec)],
        draw: spec.draw ? [spec.draw] : [],
        setCursor: [(u) => readout(u, spec)],
        setSelect: [(u) => {
          if (u.select.width > 4) {
            const from = u.posToVal(u.select.left, "x"), to = u.posToVal(u.select.left + u.select.width, "x");
            u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
            setZoom(from, to);
          }
        }],
      },
    };
  }

  function readout(u, spec) {
    const now = spec.now;
    if (u.cursor.left == null || u.cursor.left < 0) {
      now.replaceChildren();
      spec.when.textContent = "";
      return;
    }
    const at = u.posToVal(u.cursor.left, "x");
    now.replaceChildren(...spec.read(at, u.cursor.idx).map(([name, text, tint]) => {
      const item = node("span", "now");
      const swatch = node("span", "swatch");
      swatch.style.background = tint;
      item.append(swatch, `${name} ${text}`);
      return item;
    }));
    spec.when.textContent = spec.first ? `at ${clock(at, 2)}` : "";
  }

  function setZoom(from, to) {
    const width = Math.min(line.duration_s, Math.max(0.2, to - from));
    const start = Math.max(0, Math.min(from, line.duration_s - width));
    zoom = [start, start + width];
    resetButton.disabled = width >= line.duration_s;
    for (const c of charts) {
      c.setData(c.data, false);
      c.setScale("x", { min: zoom[0], max: zoom[1] });
    }
  }

  // -- output tok/s -------------------------------------------------------------------------------
  function stacked(names, of, x) {
    const sums = new Array(x.length).fill(0);
    return names.map((m) => of(m).map((v, i) => v == null ? null : (sums[i] += v)));
  }

  function stackSpec(x, names, of, more) {
    const columns = stacked(names, of, x);
    return {
      data: [x, ...columns],
      series: [{}, ...names.map((m) => ({ stroke: colour(m), width: 1.5, fill: alpha(colour(m), .5), points: { show: false }, ...more }))],
      bands: names.slice(1).map((m, i) => ({ series: [i + 2, i + 1], fill: alpha(colour(m), .5) })),
    };
  }

  function throughput() {
    const x = [...line.t_s, line.duration_s], names = shown();
    const of = (m) => [...line.tok_s[m], line.tok_s[m].at(-1)];
    const bin = (at) => Math.min(line.t_s.length - 1, Math.max(0, Math.floor(at / line.bin_s)));
    // over whole bins: uPlot looks at points in view, and a bin begins before it comes into view
    const highest = () => line.t_s.slice(bin(zoom[0]), bin(zoom[1]) + 1).reduce((top, _, i) => Math.max(top,
      names.reduce((sum, m) => sum + (line.tok_s[m][bin(zoom[0]) + i] ?? 0), 0)), 0);
    return {
      title: "Output", unit: `tok/s, stacked, ${line.bin_s} s bins`, height: 150, points: false,
      scale: { range: () => [0, Math.max(1, highest() * 1.08)] }, axis: {},
      ...stackSpec(x, names, of, { paths: uPlot.paths.stepped({ align: 1 }) }),
      read: (at) => {
        const i = bin(at), values = names.map((m) => [m, digits(line.tok_s[m][i] ?? 0), colour(m)]);
        const sum = names.reduce((s, m) => s + (line.tok_s[m][i] ?? 0), 0);
        return [["all", digits(sum), css("--ink")], ...values];
      },
    };
  }

  // -- latencies ----------------------------------------------------------------------------------
  const SHAPES = ["--warm", "--trigger", "--waiter", "--collateral"];

  function drawDots(u, key, names) {
    const ctx = u.ctx, ratio = devicePixelRatio, { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top - 4, width, height + 8);
    ctx.clip();
    for (const pass of [0, 1]) for (const m of names) {
      const d = line.dots[m], tint = colour(m);
      for (let i = 0; i < d.t_s.length; i++) {
        const stratum = d.stratum[i], v = d[key][i];
        if (v == null || d.t_s[i] == null || (stratum > 0) !== (pass > 0)) continue;
        const x = u.valToPos(d.t_s[i], "x", true), y = u.valToPos(v, "y", true);
        if (x < left - 9 || x > left + width + 9) continue;
        ctx.beginPath();
        if (stratum === 1) {
          const r = 4.6 * ratio;
          ctx.moveTo(x, y - r); ctx.lineTo(x + r, y); ctx.lineTo(x, y + r); ctx.lineTo(x - r, y);
          ctx.closePath();
        } else {
          ctx.arc(x, y, (stratum ? 3.2 : 2.3) * ratio, 0, 7);
        }
        ctx.fillStyle = stratum ? css(SHAPES[stratum]) : alpha(tint, .5);
        ctx.fill();
        if (stratum) { ctx.strokeStyle = tint; ctx.lineWidth = 1.2 * ratio; ctx.stroke(); }
      }
    }
    ctx.restore();
  }

  function latencyRange(key, p95, names, log) {
    return () => {
      let low = Infinity, high = 0;
      const take = (t, v) => {
        if (v == null || v <= 0 || t < zoom[0] - line.window_s || t > zoom[1]) return;
        low = Math.min(low, v);
        high = Math.max(high, v);
      };
      for (const m of names) {
        line.dots[m][key].forEach((v, i) => take(line.dots[m].t_s[i], v));
        p95[m].forEach((v, i) => take(line.window_t_s[i], v));
      }
      if (!high) return log ? [0.01, 1] : [0, 1];
      return log ? [low / 1.4, high * 1.4] : [0, high * 1.08];
    };
  }

  function logSplits(u, axis, min, max) {
    const found = [];
    if (!(min > 0)) return found;
    const decades = Math.log10(max / min);
    for (let p = Math.floor(Math.log10(min)); p <= Math.ceil(Math.log10(max)); p++) {
      for (const k of decades > 2.6 ? [1] : decades > .8 ? [1, 2, 5] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]) {
        const v = k * 10 ** p;
        if (v >= min && v <= max) found.push(v);
      }
    }
    return found.length > 1 ? found : [min * 1.02, Math.sqrt(min * max), max / 1.02]; // narrower than any step
  }

  const tick = (v) => v === 0 ? "0" : v < 0.9995 ? `${+(v * 1e3).toPrecision(3)} ms` : `${+v.toPrecision(3)} s`;

  function latency(title, key, p95) {
    // a chart keeps its scale: it may still draw once after the switch has built the next
    const log = logarithmic, names = shown(), x = [...line.window_t_s, line.duration_s];
    const window = (at) => Math.min(line.window_t_s.length - 1, Math.floor(at / line.window_s));
    const complete = names.every((m) => line.dots[m].of === line.dots[m].t_s.length);
    return {
      title, unit: `dots: requests by the time they were sent${complete ? "" : " (a sample)"}; line: P95 over ${digits(line.window_s)} s`,
      height: 190, points: false,
      scale: { distr: log ? 3 : 1, range: latencyRange(key, p95, names, log) },
      axis: { values: (u, vals) => vals.map((v) => v == null ? "" : tick(v)), ...(log ? { splits: logSplits, filter: (u, s) => s } : {}) },
      data: [x, ...names.map((m) => [...p95[m], p95[m].at(-1)])],
      series: [{}, ...names.map((m) => ({ stroke: alpha(colour(m), .85), width: 1.6, points: { show: false }, paths: uPlot.paths.stepped({ align: 1 }) }))],
      draw: (u) => drawDots(u, key, names),
      read: (at) => names.map((m) => [m, `${seconds(p95[m][window(at)])} (n ${line.window_n[m][window(at)]})`, colour(m)]),
      dots: { key, names },
    };
  }

  // -- VRAM ---------------------------------------------------------------------------------------
  function vram(gpu) {
    const known = models.filter((m) => gpu.models[m]), names = known.filter((m) => !hidden.has(m));
    const x = gpu.t_s, rest = gpu.used_bytes.map((v, i) => v == null ? null
      : Math.max(0, v - known.reduce((s, m) => s + (gpu.models[m][i] ?? 0), 0)));
    const parts = ["other", ...names];
    const of = (m) => (m === "other" ? rest : gpu.models[m]).map((v) => v == null ? null : v / GIB);
    const total = gpu.total_bytes == null ? null : gpu.total_bytes / GIB;
    const spec = stackSpec(x, parts, of, {});
    return {
      title: line.memory.length > 1 ? `VRAM ${gpu.name}` : "VRAM", unit: `GiB in use, ${known.length ? "by model, grey: everything else, dashed: all there is" : "all processes"} (${gpu.source})`,
      height: 150, points: false, ...spec,
      scale: { range: (u, min, max) => [0, (total ?? max) * 1.06] }, axis: {},
      draw: (u) => {
        if (total == null) return;
        const y = u.valToPos(total, "y", true), ctx = u.ctx;
        ctx.save();
        ctx.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.strokeStyle = css("--bad");
        ctx.lineWidth = devicePixelRatio;
        ctx.beginPath();
        ctx.moveTo(u.bbox.left, y);
        ctx.lineTo(u.bbox.left + u.bbox.width, y);
        ctx.stroke();
        ctx.restore();
      },
      read: (at, i) => i == null ? [] : [
        ["used", `${digits((gpu.used_bytes[i] ?? 0) / GIB)}${total ? ` of ${digits(total)}` : ""}`, css("--ink")],
        ...names.map((m) => [m, digits((gpu.models[m][i] ?? 0) / GIB), colour(m)]),
        ["other", digits((rest[i] ?? 0) / GIB), css("--other")]],
    };
  }

  // -- residency ----------------------------------------------------------------------------------
  function lanes() {
    const names = shown().filter((m) => line.residency[m]).reverse();
    const n = Math.max(1, names.length);
    const short = (m) => m.length > 13 ? `${m.slice(0, 12)}…` : m;
    const state = (m, at) => line.residency[m].find((s) => at >= s.t0_s && at < s.t1_s)?.state ?? "absent";
    return {
      title: "Residency", unit: "solid: weights in device memory; light: loading, asleep", height: 34 + 22 * n, points: false,
      scale: { range: () => [0, n] },
      axis: { splits: () => names.map((_, i) => i + .5), values: () => names.map(short), grid: { show: false } },
      data: [[0, line.duration_s], [null, null]], series: [{}, { points: { show: false } }],
      draw: (u) => {
        const ctx = u.ctx, { left, top, width, height } = u.bbox, tall = height / n;
        ctx.save();
        ctx.beginPath();
        ctx.rect(left, top, width, height);
        ctx.clip();
        names.forEach((m, i) => {
          const y = top + height - (i + 1) * tall + tall * .2;
          for (const s of line.residency[m]) {
            const x0 = u.valToPos(s.t0_s, "x", true), x1 = u.valToPos(s.t1_s, "x", true);
            ctx.fillStyle = alpha(colour(m), s.state === "resident" ? .85 : .3);
            ctx.beginPath();
            ctx.roundRect(x0, y, Math.max(1.5, x1 - x0), tall * .6, 3 * devicePixelRatio);
            ctx.fill();
          }
        });
        ctx.restore();
      },
      read: (at) => names.slice().reverse().map((m) => [m, state(m, at), colour(m)]),
    };
  }

  // -- building -----------------------------------------------------------------------------------
  function specs() {
    const list = [throughput(), latency("TTFT", "ttft_s", line.ttft_p95_s), latency("E2E", "e2e_s", line.e2e_p95_s), ...line.memory.map(vram)];
    if (shown().some((m) => line.residency[m])) list.push(lanes());
    list[0].first = true;
    list.at(-1).last = true;
    list.at(-1).height += 20;
    return list;
  }

  function build(width = holder.clientWidth) {
    for (const c of charts) c.destroy();
    holder.replaceChildren();
    charts = specs().map((spec) => {
      const box = node("div", "chart"), title = node("div", "title");
      spec.now = node("span", "now");
      spec.when = node("span", "when");
      title.append(node("b", "", spec.title), node("span", "unit", spec.unit), spec.now, spec.when);
      box.append(title);
      holder.append(box);
      const chart = new uPlot(options(spec, width), spec.data, box);
      if (spec.dots) hover(chart, spec.dots);
      return chart;
    });
    paint();
  }

  function paint() {
    for (const s of document.querySelectorAll(".swatch[data-model]")) s.style.background = colour(s.dataset.model);
    for (const s of document.querySelectorAll(".since[data-model]")) s.style.color = colour(s.dataset.model);
  }

  function hover(chart, { key, names }) {
    chart.over.addEventListener("mousemove", (event) => {
      const box = chart.over.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = null, near = 10;
      for (const m of names) {
        const d = line.dots[m];
        for (let i = 0; i < d.t_s.length; i++) {
          if (d[key][i] == null) continue;
          const far = Math.hypot(chart.valToPos(d.t_s[i], "x") - x, chart.valToPos(d[key][i], "y") - y);
          if (far < near) { near = far; best = [m, i]; }
        }
      }
      tip.hidden = !best;
      if (!best) return;
      const [m, i] = best, d = line.dots[m];
      tip.textContent = `${m}, ${data.strata[d.stratum[i]].replace("_", " ")}: sent at ${clock(d.t_s[i], 2)}, TTFT ${seconds(d.ttft_s[i])}, E2E ${seconds(d.e2e_s[i])}`;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${event.clientY + 16}px`;
    });
    chart.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  }

  function legend() {
    document.getElementById("legend").replaceChildren(...models.map((m) => {
      const button = node("button"), swatch = node("span", "swatch");
      button.type = "button";
      swatch.dataset.model = m;
      button.setAttribute("aria-pressed", "true");
      button.append(swatch, m);
      button.addEventListener("click", () => {
        if (hidden.has(m)) hidden.delete(m); else hidden.add(m);
        button.setAttribute("aria-pressed", String(!hidden.has(m)));
        build();
      });
      return button;
    }));
  }

  function keys(event) {
    const span = zoom[1] - zoom[0], middle = (zoom[0] + zoom[1]) / 2;
    const moves = {
      ArrowLeft: [zoom[0] - span * .15, zoom[1] - span * .15], ArrowRight: [zoom[0] + span * .15, zoom[1] + span * .15],
      "+": [middle - span / 4, middle + span / 4], "=": [middle - span / 4, middle + span / 4],
      "-": [middle - span, middle + span], 0: [0, line.duration_s], Escape: [0, line.duration_s],
    };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    setZoom(...move);
  }

  function showEvent(index) {
    const e = events[index], end = ending(e), around = Math.max(2, (end - e.t0_s) * 1.2);
    setZoom(e.t0_s - around, end + around);
    for (const row of document.querySelectorAll("tr[data-event]")) row.classList.toggle("chosen", row.dataset.event === String(index));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.getElementById("timeline").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
    holder.focus({ preventScroll: true });
  }

  // the live page: the same charts, of data that has grown
  window.tokenswarmShow = (next) => {
    const whole = zoom[1] - zoom[0] >= line.duration_s - .01, same = next.models.join() === models.join();
    ({ models, timeline: line, events, offset_s: offset = 0 } = next);
    if (whole) zoom = [0, line.duration_s];
    if (!same) { hidden.clear(); legend(); }
    build();
  };

  legend();
  build();
  holder.addEventListener("keydown", keys);
  resetButton.addEventListener("click", () => setZoom(0, line.duration_s));
  scaleButton.addEventListener("click", () => {
    logarithmic = !logarithmic;
    scaleButton.setAttribute("aria-pressed", String(logarithmic));
    scaleButton.textContent = logarithmic ? "log" : "linear";
    build();
  });
  for (const button of document.querySelectorAll("button[data-event]")) button.addEventListener("click", () => showEvent(+button.dataset.event));
  let width = holder.clientWidth, printing = false;
  new ResizeObserver(() => {
    if (!printing && holder.clientWidth !== width) { width = holder.clientWidth; build(); }
  }).observe(holder);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => build());
  addEventListener("beforeprint", () => {
    printing = true;
    for (const details of document.querySelectorAll("details")) details.open = true;
    document.documentElement.classList.add("light");
    build(670);
  });
  addEventListener("afterprint", () => { printing = false; document.documentElement.classList.remove("light"); build(); });
})();
