"use strict";
// The page's script: precision-recall curves by class, and the gallery. Texts reach the page as
// textContent alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const read = (id) => (byId(id) ? JSON.parse(byId(id).textContent) : null);

  // ------------------------------------------------------------------ precision and recall
  const curves = read("curves-data");
  if (curves) {
    const [left, top, width, height] = curves.plot;
    const path = (values) =>
      values.length === 0
        ? ""
        : "M" +
          values
            .map((y, k) => {
              const x = left + (width * k) / (values.length - 1);
              return `${x.toFixed(1)} ${(top + height * (1 - y)).toFixed(1)}`;
            })
            .join("L");
    byId("curves-class").addEventListener("change", (event) => {
      for (const [task, rows] of Object.entries(curves.tasks)) {
        const lines = byId(`curves-${task}`).querySelectorAll("path.curve");
        const ends = byId(`curves-${task}`).parentElement.querySelectorAll(".legend b");
        rows[event.target.value].curves.forEach((values, k) => lines[k].setAttribute("d", path(values)));
        rows[event.target.value].aps.forEach((text, k) => (ends[k].textContent = text));
      }
    });
  }

  // ------------------------------------------------------------------ gallery
  const gallery = read("gallery-data");
  if (!gallery) return;
  const slider = byId("score");
  const controls = { truth: byId("show-truth"), predictions: byId("show-predictions") };
  const MISSED = "#ffd23f", FOUND = "#ffffff", RIGHT = "#38a9f0", WRONG = "#ff6a2b", CROWD = "#b9b9b9";
  const FEW = 7, MANY = 80; // instances whose names are written: on a card, on an enlarged image
  const images = new Map(); // loaded images by number of their card
  const visible = new Set();
  let enlarged = -1;

  const name = (k) => (gallery.names.length > 1 ? `${gallery.names[k]} ` : ""); // of one class: none
  const threshold = () => Number(slider.value) / 100;

  function outcome(card) {
    const shown = card.detections.filter((d) => d[1] >= threshold());
    const found = new Set(shown.map((d) => d[2]).filter((k) => k >= 0));
    const missed = card.objects.filter((o, k) => !o[1] && !found.has(k)).length;
    const wrong = shown.filter((d) => d[2] === -1).length;
    return { shown, found, right: found.size, wrong, missed };
  }

  const sentence = (o) => `${o.right} right, ${o.wrong} wrong, ${o.missed} missed`;

  function trace(context, outline) {
    context.beginPath();
    for (const polygon of outline) {
      context.moveTo(polygon[0], polygon[1]);
      for (let k = 2; k < polygon.length; k += 2) context.lineTo(polygon[k], polygon[k + 1]);
      context.closePath();
    }
  }

  function write(context, text, outline, color, scale) {
    if (!outline.length || !text) return;
    let x = Infinity, y = Infinity;
    for (const polygon of outline)
      for (let k = 0; k < polygon.length; k += 2) {
        x = Math.min(x, polygon[k]);
        y = Math.min(y, polygon[k + 1]);
      }
    const size = 12 * scale;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const width = context.measureText(text.trim()).width + 0.7 * size;
    y = Math.max(y - 1.25 * size, 0);
    x = Math.max(Math.min(x, context.canvas.width / context.getTransform().a - width), 0);
    context.fillStyle = color;
    context.fillRect(x, y, width, 1.3 * size);
    context.fillStyle = "#101418";
    context.fillText(text.trim(), x + 0.35 * size, y + size);
  }

  function draw(canvas, number, zoom, limit) {
    const card = gallery.cards[number];
    canvas.width = Math.round(card.width * zoom);
    canvas.height = Math.round(card.height * zoom);
    const context = canvas.getContext("2d");
    context.scale(zoom, zoom);
    context.fillStyle = "#808080";
    context.fillRect(0, 0, card.width, card.height);
    const image = images.get(number);
    if (image) context.drawImage(image, 0, 0, card.width, card.height);
    const result = outcome(card);
    const thin = 1.2 / Math.min(zoom, 1.5), labels = [];
    context.lineJoin = "round";
    if (controls.predictions.checked) {
      for (const d of [...result.shown].reverse()) {
        if (d[2] === -2) continue; // on a crowd: neither right nor wrong
        const color = d[2] >= 0 ? RIGHT : WRONG;
        trace(context, d[3]);
        context.fillStyle = color + "42";
        context.fill("evenodd");
        context.strokeStyle = color;
        context.lineWidth = 1.6 * thin;
        context.stroke();
        labels.push([`${name(d[0])}${Math.round(100 * d[1])}`, d[3], color]);
      }
    }
    if (controls.truth.checked) {
      card.objects.forEach((o, k) => {
        const isMissed = controls.predictions.checked && !o[1] && !result.found.has(k);
        const color = o[1] ? CROWD : isMissed ? MISSED : FOUND;
        trace(context, o[2]);
        context.strokeStyle = "#00000078";
        context.lineWidth = (isMissed ? 3 : 2.4) * thin;
        context.stroke();
        context.setLineDash([6, 3]);
        context.strokeStyle = color;
        context.lineWidth = (isMissed ? 1.9 : 1.2) * thin;
        context.stroke();
        context.setLineDash([]);
        if (isMissed || !controls.predictions.checked)
          labels.push([name(o[0]) + (o[1] ? "(crowd)" : ""), o[2], color]);
      });
    }
    if (labels.length <= limit)
      for (const [text, outline, color] of labels) write(context, text, outline, color, 1 / Math.min(zoom, 1.6));
    canvas.dataset.drawn = `${labels.length}`;
  }

  function load(number, then) {
    const card = gallery.cards[number];
    if (images.has(number) || !card.src) return then();
    const image = new Image();
    image.addEventListener("load", () => {
      images.set(number, image);
      then();
    });
    image.src = card.src;
  }

  const figures = [...document.querySelectorAll(".card")];
  const sharpness = Math.min(Math.max(window.devicePixelRatio || 1, 1), 2);
  const drawCard = (k) => draw(figures[k].querySelector("canvas"), k, sharpness, FEW);

  function enlarge(number) {
    enlarged = number;
    const card = gallery.cards[number];
    byId("enlarged-name").textContent = card.name;
    byId("enlarged-counts").textContent = sentence(outcome(card));
    load(number, () => draw(byId("enlarged-canvas"), number, 2, MANY));
  }

  function update() {
    byId("score-value").textContent = threshold().toFixed(2);
    const total = { right: 0, wrong: 0, missed: 0 };
    gallery.cards.forEach((card, k) => {
      const result = outcome(card);
      for (const key of Object.keys(total)) total[key] += result[key];
      figures[k].querySelector("small").textContent = sentence(result);
    });
    byId("gallery-counts").textContent = `In these images: ${sentence(total)}.`;
    for (const k of visible) drawCard(k);
    if (enlarged >= 0) enlarge(enlarged);
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        const k = figures.indexOf(entry.target);
        if (!entry.isIntersecting) {
          visible.delete(k);
          continue;
        }
        visible.add(k);
        load(k, () => drawCard(k));
      }
    },
    { rootMargin: "400px" },
  );
  figures.forEach((figure, k) => {
    const card = gallery.cards[k];
    const canvas = figure.querySelector("canvas");
    canvas.width = card.width; // keeps the place until it is drawn
    canvas.height = card.height;
    watcher.observe(figure);
    figure.querySelector("button").addEventListener("click", () => {
      enlarge(k);
      byId("enlarged").showModal();
    });
  });
  byId("enlarged").addEventListener("close", () => (enlarged = -1));
  byId("enlarged").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) enlarge((enlarged + step + figures.length) % figures.length);
  });
  slider.addEventListener("input", update);
  for (const control of Object.values(controls)) control.addEventListener("change", update);
  update();
})();
