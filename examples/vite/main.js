// The page only draws: the worker has the GPU.
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
worker.addEventListener("message", ({ data }) => {
  document.querySelector("#log").append(`${data}\n`);
});
