// Draw a garment or drop an image: what both networks make of it.

import type { Answer, Sample } from "./messages.ts";
import { percent } from "./words.ts";

/** Of the data set's images. */
const SIDE = 28;

export function setUpTryIt(ask: (pixels: number[]) => void, samples: () => readonly Sample[]) {
  const canvas = document.getElementById("drawing") as HTMLCanvasElement;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  const small = new OffscreenCanvas(SIDE, SIDE).getContext("2d", { willReadFrequently: true })!;
  let next = 0;

  const clear = () => {
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
  };

  /** The picture's brightness in 28 × 28 bytes. */
  const pixels = () => {
    small.imageSmoothingQuality = "high";
    small.drawImage(canvas, 0, 0, SIDE, SIDE);
    const { data } = small.getImageData(0, 0, SIDE, SIDE);
    return Array.from({ length: SIDE * SIDE }, (_, i) =>
      Math.round(0.299 * data[4 * i]! + 0.587 * data[4 * i + 1]! + 0.114 * data[4 * i + 2]!),
    );
  };

  let last: { x: number; y: number } | null = null;
  const at = (event: PointerEvent) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * canvas.width) / box.width,
      y: ((event.clientY - box.top) * canvas.height) / box.height,
    };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const here = at(event);
    Object.assign(context, { lineWidth: 26, lineCap: "round", strokeStyle: "#ddd" });
    context.beginPath();
    context.moveTo(last.x, last.y);
    context.lineTo(here.x, here.y);
    context.stroke();
    last = here;
  });
  const lift = () => {
    if (last) ask(pixels());
    last = null;
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);

  /** Fills the square; a picture on a light ground is turned round, since the networks know light on dark. */
  const take = async (file: Blob) => {
    const image = await createImageBitmap(file);
    const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    const [left, top] = [(canvas.width - width) / 2, (canvas.height - height) / 2];
    clear();
    context.drawImage(image, left, top, width, height);
    const edge = context.getImageData(
      Math.ceil(left),
      Math.ceil(top),
      Math.max(1, Math.floor(width)),
      1,
    ).data;
    let light = 0;
    for (let i = 0; i < edge.length; i += 4) light += edge[i]! / (edge.length / 4);
    if (light > 127) {
      context.globalCompositeOperation = "difference";
      context.fillStyle = "white";
      context.fillRect(left, top, width, height);
      context.globalCompositeOperation = "source-over";
    }
    ask(pixels());
  };

  document.getElementById("clear")!.addEventListener("click", clear);
  document.getElementById("sample")!.addEventListener("click", () => {
    const sample = samples()[next++ % Math.max(1, samples().length)];
    if (!sample) return;
    const image = small.createImageData(SIDE, SIDE);
    sample.pixels.forEach((value, i) => {
      image.data.set([value, value, value, 255], 4 * i);
    });
    small.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small.canvas, 0, 0, canvas.width, canvas.height);
    ask([...sample.pixels]);
  });
  document.getElementById("file")!.addEventListener("change", (event) => {
    const [file] = (event.target as HTMLInputElement).files ?? [];
    if (file) void take(file);
  });
  const drop = document.getElementById("drop")!;
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer?.files ?? [];
    if (file?.type.startsWith("image/")) void take(file);
  });
  clear();

  return {
    show({ probabilities }: Answer, classNames: readonly string[], titles: readonly [string, string]): void {
      document.getElementById("verdicts")!.replaceChildren(
        ...probabilities.map((values, side) => {
          const box = document.createElement("div");
          box.className = `verdict ${side === 0 ? "a" : "b"}`;
          box.append(Object.assign(document.createElement("h3"), { textContent: titles[side]! }));
          const best = values.map((value, k) => [value, k] as const).sort((a, b) => b[0] - a[0]);
          for (const [value, k] of best.slice(0, 3)) {
            const row = document.createElement("div");
            row.className = "bar";
            const [name, track, bar, share] = ["span", "span", "i", "span"].map((tag) =>
              document.createElement(tag),
            );
            name!.textContent = classNames[k]!;
            bar!.style.width = `${Number.isFinite(value) ? 100 * value : 0}%`;
            track!.append(bar!);
            share!.textContent = Number.isFinite(value) ? percent(value) : "–";
            row.append(name!, track!, share!);
            box.append(row);
          }
          return box;
        }),
      );
    },
  };
}
