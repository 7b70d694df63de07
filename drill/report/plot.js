// Draws the timeline of each drill with uPlot: lanes for phases, states and
// checks of the key, operations per second, errors per second. Everything that
// is drawn is in the tables of the page, too.
(() => {
  "use strict";

  const root = document.documentElement;
  const colour = name => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const states = ["online", "degraded", "suspending", "suspended", "restoring"];
  const classes = ["ok", "throttled", "unreachable", "network-denied", "denied", "misconfigured"];
  const font = size => size + "px system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif";
  const labels = 128, laneHeight = 26, rates = 190, errors = 120; // CSS pixels

  // A check's mark differs in shape, not in colour alone.
  const shapes = {
    "ok": (c, x, y, r) => { c.arc(x, y, r * 0.8, 0, 7); c.fill(); },
    "denied": (c, x, y, r) => { c.moveTo(x - r, y - r); c.lineTo(x + r, y + r); c.moveTo(x + r, y - r); c.lineTo(x - r, y + r); c.stroke(); },
    "network-denied": (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y); c.lineTo(x, y + r); c.lineTo(x - r, y); c.closePath(); c.fill(); },
    "throttled": (c, x, y, r) => { c.moveTo(x, y - r); c.lineTo(x + r, y + r); c.lineTo(x - r, y + r); c.closePath(); c.fill(); },
    "unreachable": (c, x, y, r) => { c.arc(x, y, r * 0.8, 0, 7); c.stroke(); },
    "misconfigured": (c, x, y, r) => { c.moveTo(x - r, y); c.lineTo(x + r, y); c.moveTo(x, y - r); c.lineTo(x, y + r); c.stroke(); },
  };

  // Timeline is the plot of one drill in one element.
  class Timeline {
    constructor(element, number) {
      this.element = element;
      this.readout = element.parentElement.querySelector(".readout");
      this.help = this.readout.textContent;
      this.data = JSON.parse(element.querySelector("script").textContent);
      this.sync = "drill-" + number;
      const present = new Set(this.data.checks.map(c => c.class));
      this.classes = classes.filter(c => present.delete(c)).concat([...present].sort());
      this.lanes = ["phase", "account", "mount"].concat(this.classes.map(c => "check: " + c));
      this.many = this.data.marks.length > 16; // lines that would hide what they mark
      // Lines begin and end with the drill.
      this.time = [0, ...this.data.time, Math.max(this.data.duration, this.data.time.at(-1) ?? 0, 0.001)];
      this.reserve();
    }

    reserve() {
      this.element.style.minHeight = this.lanes.length * laneHeight + rates + errors + 40 + "px";
    }

    get drawn() { return Boolean(this.plots); }

    draw(width) {
      this.erase();
      const d = this.data, pad = list => [list[0] ?? null, ...list, null], stepped = uPlot.paths.stepped({ align: -1 });
      const line = (label, dash) => ({ label, stroke: colour(label), width: 1.5, dash, paths: stepped, points: { show: false } });
      this.plots = [
        this.plot(width, this.lanes.length * laneHeight + 8, [this.time, this.time.map(() => null)], {
          scales: { x: { time: false }, y: { range: [0, this.lanes.length] } },
          axes: [{ show: false }, this.laneAxis()],
          series: [{}, { points: { show: false } }],
          legend: { show: false },
        }, u => this.drawLanes(u)),
        this.plot(width, rates, [this.time, pad(d.reads), pad(d.writes), pad(d.metadata)], {
          axes: [this.timeAxis(false), this.rateAxis("operations/s")],
          series: [{}, line("reads"), line("writes", [6, 3]), line("metadata", [2, 2])],
          legend: { live: false, mount: (u, legend) => { this.legend = legend; } },
        }, u => this.nameMarks(u)),
        this.plot(width, errors, [this.time, pad(d.errors)], {
          axes: [this.timeAxis(true), this.rateAxis("errors/s")],
          series: [{}, { ...line("errors"), fill: colour("errors") + "40" }],
          legend: { show: false },
        }, () => {}),
      ];
      this.element.append(this.legend);
    }

    erase() {
      for (const p of this.plots ?? []) p.destroy();
      this.legend?.remove();
      this.plots = null;
    }

    plot(width, height, data, options, draw) {
      return new uPlot({
        width, height, padding: [4, 26, 0, 0],
        scales: { x: { time: false }, y: { distr: 4, asinh: 1, range: (u, min, max) => [0, Math.max(10, (max ?? 0) * 4)] } },
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false }, sync: { key: this.sync } },
        hooks: { drawClear: [u => this.shade(u)], draw: [u => { this.drawMarks(u); draw(u); }], setCursor: [u => this.read(u)] },
        ...options,
      }, data, this.element);
    }

    timeAxis(shown) {
      const grid = { stroke: colour("line"), width: 1 };
      return { stroke: colour("soft"), grid, ticks: { show: shown, stroke: colour("line"), size: 5 }, font: font(12), size: shown ? 30 : 6,
        values: (u, list) => list.map(v => shown ? v + " s" : "") };
    }

    rateAxis(label) {
      const short = v => v >= 1e6 ? v / 1e6 + "M" : v >= 1e3 ? v / 1e3 + "k" : String(v);
      const splits = (u, axis, min, max) => [0, 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7].filter(v => v <= max && (v != 1 || max < 100));
      return { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: font(12), size: labels - 24,
        label, labelFont: font(12), labelSize: 24, splits, filter: (u, list) => list, values: (u, list) => list.map(short) };
    }

    laneAxis() {
      return { stroke: colour("ink"), grid: { show: false }, ticks: { show: false }, font: font(12), size: labels,
        splits: () => this.lanes.map((_, i) => i + 0.5), filter: (u, list) => list,
        values: () => [...this.lanes].reverse() };
    }

    // shade sets every other phase apart.
    shade(u) {
      const { ctx, bbox } = u;
      ctx.save();
      ctx.fillStyle = colour("phase");
      this.data.phases.forEach((p, i) => {
        const [x, w] = this.span(u, p);
        if (i % 2 == 1 && w > 0) ctx.fillRect(x, bbox.top, w, bbox.height);
      });
      ctx.restore();
    }

    // span is where a time begins on the canvas, and how long it is, as far as it can be seen.
    span(u, { from, to }) {
      const { left, width } = u.bbox;
      const a = Math.max(left, u.valToPos(from, "x", true)), b = Math.min(left + width, u.valToPos(to, "x", true));
      return [a, b - a];
    }

    drawLanes(u) {
      const { ctx, bbox } = u, dpr = devicePixelRatio;
      const lane = bbox.height / this.lanes.length;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      ctx.font = font(12 * dpr);
      ctx.textAlign = "center";
      ctx.textBaseline = "middle";
      ctx.lineWidth = 1.6 * dpr;
      [this.data.phases, this.data.account, this.data.mount].forEach((runs, i) => {
        const y = bbox.top + i * lane;
        for (const r of runs) {
          const [x, w] = this.span(u, r);
          if (w <= 0) continue;
          if (i > 0) {
            ctx.fillStyle = colour(states.includes(r.name) ? r.name : "other");
            ctx.fillRect(x, y + 2 * dpr, Math.max(w, dpr), lane - 4 * dpr);
          }
          ctx.fillStyle = colour("ink");
          if (ctx.measureText(r.name).width + 8 * dpr < w) ctx.fillText(r.name, x + w / 2, y + lane / 2);
        }
      });
      this.data.checks.forEach(c => {
        const y = bbox.top + (3 + this.classes.indexOf(c.class) + 0.5) * lane;
        ctx.fillStyle = ctx.strokeStyle = colour(c.class == "ok" ? "good" : "bad");
        ctx.beginPath();
        (shapes[c.class] ?? shapes.misconfigured)(ctx, u.valToPos(c.at, "x", true), y, 5 * dpr);
      });
      ctx.restore();
    }

    // drawMarks draws a line where a fault begins and where it ends.
    drawMarks(u) {
      const { ctx, bbox } = u, dpr = devicePixelRatio;
      ctx.save();
      ctx.lineWidth = (this.many ? 0.7 : 1.5) * dpr;
      for (const m of this.data.marks) {
        const x = u.valToPos(m.at, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.strokeStyle = colour(m.kind == "fault" ? "fault" : "restore");
        ctx.setLineDash(m.kind == "fault" ? [] : [5 * dpr, 3 * dpr]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.restore();
    }

    nameMarks(u) {
      if (this.many) return;
      const { ctx, bbox } = u, dpr = devicePixelRatio;
      ctx.save();
      ctx.font = font(11 * dpr);
      ctx.textAlign = "left";
      ctx.textBaseline = "top";
      let free = 0;
      for (const m of this.data.marks) {
        const x = u.valToPos(m.at, "x", true) + 4 * dpr, width = ctx.measureText(m.kind).width;
        if (x < Math.max(bbox.left, free) || x + width > bbox.left + bbox.width) continue;
        ctx.fillStyle = colour(m.kind == "fault" ? "fault" : "restore");
        ctx.fillText(m.kind, x, bbox.top + 3 * dpr);
        free = x + width;
      }
      ctx.restore();
    }

    // read says what is at the cursor.
    read(u) {
      if (u !== this.plots?.[0]) return;
      const { left, idx } = u.cursor, d = this.data;
      if (left < 0 || idx == null) {
        this.readout.textContent = this.help;
        return;
      }
      const at = u.posToVal(left, "x");
      const name = runs => runs.find(r => at >= r.from && at < r.to)?.name ?? "–";
      const i = d.time.findIndex(t => t >= at), per = i < 0 ? null : k => d[k][i].toLocaleString("en");
      const check = d.checks.findLast(c => c.at <= at), mark = d.marks.findLast(m => m.at <= at);
      this.readout.textContent = [
        at.toFixed(2) + " s", name(d.phases), "account " + name(d.account), "mount " + name(d.mount),
        per && `${per("reads")} reads/s, ${per("writes")} writes/s, ${per("metadata")} metadata/s, ${per("errors")} errors/s`,
        check && `last check ${check.class}${check.detail && ": " + check.detail}`,
        mark && mark.text,
      ].filter(Boolean).join(" · ");
    }
  }

  const all = [...document.querySelectorAll(".plot")].map((e, i) => new Timeline(e, i));
  const width = t => Math.max(320, Math.floor(t.element.clientWidth));

  // A page of many drills holds only the plots that are near.
  const near = new IntersectionObserver(entries => {
    for (const e of entries) {
      const t = all.find(t => t.element === e.target);
      if (e.isIntersecting && !t.drawn) t.draw(width(t));
      if (!e.isIntersecting) t.erase();
    }
  }, { rootMargin: "1500px" });
  for (const t of all) near.observe(t.element);

  const again = () => all.filter(t => t.drawn).forEach(t => t.draw(width(t)));
  let timer;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(again, 100); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);

  // Paper is white, and has every plot.
  addEventListener("beforeprint", () => { root.classList.add("printing"); all.forEach(t => t.draw(680)); });
  addEventListener("afterprint", () => { root.classList.remove("printing"); again(); });
})();
