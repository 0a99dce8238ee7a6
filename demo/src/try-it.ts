// Draw a garment or drop an image: what both networks make of it.

import type { Answer, Sample } from "./messages.ts";
import { percent } from "./words.ts";

/** Of the data set's images. */
const SIDE = 28;
/** An edge that is lighter than this, of 255, is a light ground. */
const LIGHT = 127;

/** How light red, green and blue at `i` look, 0 … 255. */
const lightness = (data: ArrayLike<number>, i: number) =>
  0.299 * data[i]! + 0.587 * data[i + 1]! + 0.114 * data[i + 2]!;

/** What a visitor gave is no image. */
class NoImage extends Error {}

export function setUpTryIt(ask: (pixels: number[]) => void, samples: () => readonly Sample[]) {
  const canvas = document.getElementById("drawing") as HTMLCanvasElement;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  const small = new OffscreenCanvas(SIDE, SIDE).getContext("2d", { willReadFrequently: true })!;
  let next = 0;

  const clear = () => {
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
  };
  const refuse = (reason: string) => {
    const place = document.getElementById("refused")!;
    place.textContent = reason;
    place.hidden = reason === "";
  };

  /** The picture's brightness in 28 × 28 bytes. */
  const pixels = () => {
    small.imageSmoothingQuality = "high";
    small.drawImage(canvas, 0, 0, SIDE, SIDE);
    const { data } = small.getImageData(0, 0, SIDE, SIDE);
    return Array.from({ length: SIDE * SIDE }, (_, i) => Math.round(lightness(data, 4 * i)));
  };

  let last: { x: number; y: number } | null = null;
  const at = (event: PointerEvent) => {
    const box = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) * canvas.width) / box.width,
      y: ((event.clientY - box.top) * canvas.height) / box.height,
    };
  };
  /** A stroke from where the pointer was; a dot where it was set down. */
  const draw = (event: PointerEvent) => {
    const here = at(event);
    const { x, y } = last ?? here;
    Object.assign(context, { lineWidth: 26, lineCap: "round", strokeStyle: "#ddd" });
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(here.x, here.y);
    context.stroke();
    last = here;
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    refuse("");
    draw(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last) draw(event);
  });
  const lift = () => {
    if (last) ask(pixels());
    last = null;
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);

  /** Decoded, and made small at once: a photo of a phone has tens of millions of pixels. */
  const decode = async (file: Blob): Promise<OffscreenCanvas> => {
    const image = await createImageBitmap(file).catch(() => {
      throw new NoImage();
    });
    try {
      const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
      const size = (pixels: number) => Math.max(1, Math.round(pixels * scale));
      const fitted = new OffscreenCanvas(size(image.width), size(image.height));
      const on = fitted.getContext("2d", { willReadFrequently: true })!;
      on.imageSmoothingQuality = "high";
      on.drawImage(image, 0, 0, fitted.width, fitted.height);
      return fitted;
    } finally {
      image.close();
    }
  };

  /**
   * A picture on a light ground is turned round, since the networks know light on dark. One whose ground can be seen through stands
   * on a dark ground where it is light, and is turned round where it is dark.
   */
  const settle = (fitted: OffscreenCanvas) => {
    const { width, height } = fitted;
    const on = fitted.getContext("2d")!;
    const image = on.getImageData(0, 0, width, height);
    const { data } = image;
    let [edge, pixels, seen, opaque, clearEdge] = [0, 0, 0, 0, 0];
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const i = 4 * (y * width + x);
        const alpha = data[i + 3]! / 255;
        seen += alpha * lightness(data, i);
        opaque += alpha;
        if (x > 0 && y > 0 && x < width - 1 && y < height - 1) continue;
        pixels += 1;
        edge += lightness(data, i);
        clearEdge += 1 - alpha;
      }
    }
    const cutOut = clearEdge > pixels / 2;
    const turn = cutOut ? seen <= LIGHT * opaque : edge > LIGHT * pixels;
    for (let i = 0; i < data.length; i += 4) {
      const alpha = data[i + 3]! / 255;
      for (let c = i; c < i + 3; c += 1) data[c] = alpha * (turn ? 255 - data[c]! : data[c]!);
      data[i + 3] = 255;
    }
    on.putImageData(image, 0, 0);
  };

  /** Of several files that were taken one after the other, the last is shown. */
  let taken = 0;
  const take = async (file: Blob) => {
    taken += 1;
    const mine = taken;
    try {
      const fitted = await decode(file);
      if (mine !== taken) return;
      settle(fitted);
      clear();
      const { width, height } = fitted;
      context.drawImage(
        fitted,
        Math.round((canvas.width - width) / 2),
        Math.round((canvas.height - height) / 2),
      );
      refuse("");
      ask(pixels());
    } catch (error) {
      if (!(error instanceof NoImage)) throw error;
      const name = file instanceof File ? file.name : "What was dropped";
      if (mine === taken)
        refuse(`${name} is no image that this browser can read. Take a PNG, a JPEG or a WebP file.`);
    }
  };

  document.getElementById("clear")!.addEventListener("click", () => {
    taken += 1;
    clear();
    refuse("");
    document.getElementById("verdicts")!.replaceChildren();
  });
  document.getElementById("sample")!.addEventListener("click", () => {
    const sample = samples()[next++ % Math.max(1, samples().length)];
    if (!sample) return;
    const image = small.createImageData(SIDE, SIDE);
    sample.pixels.forEach((value, i) => {
      image.data.set([value, value, value, 255], 4 * i);
    });
    taken += 1;
    refuse("");
    small.putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small.canvas, 0, 0, canvas.width, canvas.height);
    ask([...sample.pixels]);
  });
  document.getElementById("file")!.addEventListener("change", (event) => {
    const input = event.target as HTMLInputElement;
    const [file] = input.files ?? [];
    if (file) void take(file);
    // The same file can be chosen again.
    input.value = "";
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
    if (file) void take(file);
    else refuse("What was dropped is no file. Save the image first, and drop its file here.");
  });
  // Beside the square: a browser would leave the page for the image.
  for (const type of ["dragover", "drop"]) document.addEventListener(type, (event) => event.preventDefault());
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
