"""The work of `npm run gpu:suite` in PyTorch, on the same machine in the same run.

Reads a JSON list of works (bench/lib/work.ts) from standard input; writes one JSON object per result, as soon as it is
there: {"work", "mode": "eager" | "compile", "precision": "fp32" | "default", "ms", "spread"}. `fp32` has TF32 switched
off; `default` is what PyTorch does unasked. Times are of CUDA events around many iterations, medians of rounds; those of
epochs are of some of their steps, scaled. Of the two memory formats (NCHW, and NHWC as fusenorm has it) the faster one
counts.
"""

import argparse
import json
import statistics
import sys
import time

began = time.monotonic()


def say(**fields):
    print(json.dumps(fields), flush=True)


try:
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
except ImportError as error:
    say(note=f"PyTorch is not here ({error}): left out")
    sys.exit(0)

parser = argparse.ArgumentParser()
parser.add_argument("--budget", type=float, default=120, help="seconds for everything")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--rounds", type=int, default=7)
parser.add_argument("--round-ms", type=float, default=20)
options = parser.parse_args()
cuda = options.device == "cuda"


def out_of_time():
    return time.monotonic() - began > options.budget


def timed(step, iterations):
    """ms of one of `iterations` calls, to the end of their work on the device."""
    if not cuda:
        start = time.perf_counter()
        for _ in range(iterations):
            step()
        return 1e3 * (time.perf_counter() - start) / iterations
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(iterations):
        step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / iterations


def measure(step, round_ms):
    for _ in range(3):  # compiles, and lets cuDNN choose
        timed(step, 1)
    iterations = max(1, min(500, round(round_ms / max(1e-3, timed(step, 3)))))
    times = [timed(step, iterations) for _ in range(options.rounds)]
    quartiles = statistics.quantiles(times, n=4)
    return statistics.median(times), (quartiles[2] - quartiles[0]) / statistics.median(times)


class BatchNorm(nn.Module):
    def __init__(self, channels, tail):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.tail = tail

    def forward(self, x, residual=None):
        y = F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=1e-5)
        if residual is not None:
            y = y + residual
        return y if self.tail == "plain" else F.relu(y)


class Convolution(nn.Module):
    def __init__(self, channels, out_channels):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(out_channels, channels, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


class Block(nn.Module):
    """Two 3x3 convolutions around an option-A shortcut."""

    def __init__(self, channels, out_channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.added = (out_channels - channels) // 2

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        shortcut = x
        if self.stride == 2:
            shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return F.relu(self.norm2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    def __init__(self, depth, classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for stage, out_channels in enumerate((16, 32, 64)):
            for i in range((depth - 2) // 6):
                blocks.append(Block(channels, out_channels, 2 if stage > 0 and i == 0 else 1))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x):
        y = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.classifier(y.mean((2, 3)))


def random(shape, memory_format, grad=False):
    n, h, w, c = shape
    x = torch.randn(n, c, h, w, device=options.device).to(memory_format=memory_format)
    return x.requires_grad_(grad)


def gathered(work, memory_format):
    """A function that makes a batch out of images on the device: cropped out of padding, flipped, normalised."""
    count, batch, size = work["images"], work["batch"], work["size"]
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, device=options.device)
    pixels = F.pad(pixels, (4, 4, 4, 4))
    targets = torch.arange(count, device=options.device) % work["classes"]
    batches = torch.randperm(count, device=options.device)[: count // batch * batch].view(-1, batch)
    channels = torch.arange(3, device=options.device).view(3, 1, 1)
    span = torch.arange(size, device=options.device)
    done = 0

    def next_batch():
        nonlocal done
        chosen = batches[done % len(batches)]
        done += 1
        top, left = torch.randint(9, (2, batch, 1), device=options.device)
        flip = torch.rand(batch, 1, device=options.device) < 0.5
        rows = (top + span).view(batch, 1, size, 1)
        columns = (left + torch.where(flip, span.flip(0), span)).view(batch, 1, 1, size)
        x = pixels[chosen.view(batch, 1, 1, 1), channels, rows, columns]
        x = (x.float() / 255 - 0.5) / 0.25
        return x.contiguous(memory_format=memory_format), targets[chosen]

    return next_batch


def make_step(work, compiled, memory_format):
    """A function that does the work once."""
    if compiled:
        # From nothing each time: dynamo gives up on a function that it has compiled for too many shapes.
        torch._dynamo.reset()
    wrap = (lambda module: torch.compile(module, dynamic=False)) if compiled else (lambda module: module)
    if work["op"] == "resnet_step":
        size = work["size"]
        net = ResNet(work["depth"], work["classes"]).to(options.device, memory_format=memory_format).train()
        if work.get("images"):
            next_batch = gathered(work, memory_format)
        else:
            images = random([work["batch"], size, size, 3], memory_format)
            labels = torch.arange(work["batch"], device=options.device) % work["classes"]
            next_batch = lambda: (images, labels)  # noqa: E731
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        model = wrap(net)

        def step():
            x, y = next_batch()
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step
    both = work["pass"] == "forward+backward"
    shape = work["shape"]
    x = random(shape, memory_format, both)
    inputs = [x]
    if work["op"] == "batch_norm":
        tail = work.get("tail", "relu")
        module = BatchNorm(shape[3], tail)
        if tail == "residual+relu":
            inputs.append(random(shape, memory_format, both))
        dy = random(shape, memory_format)
    else:
        module = Convolution(shape[3], work["outChannels"])
        dy = random([*shape[:3], work["outChannels"]], memory_format)
    module = module.to(options.device, memory_format=memory_format).requires_grad_(both)
    model = wrap(module)
    leaves = [*inputs, *module.parameters()]

    def forward():
        with torch.no_grad():
            model(*inputs)

    def forward_backward():
        for leaf in leaves:
            leaf.grad = None
        model(*inputs).backward(dy)

    return forward_backward if both else forward


def run(work, mode, precision):
    for allowed in (torch.backends.cuda.matmul, torch.backends.cudnn):
        allowed.allow_tf32 = DEFAULTS[allowed] if precision == "default" else False
    best = None
    # Of an epoch, some steps are timed.
    steps = work["images"] // work["batch"] if work.get("images") else 1
    # The compiler takes seconds for each: it gets the format that is usual on this device.
    formats = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    if mode == "compile":
        formats = {"NCHW": torch.contiguous_format}
    for name, memory_format in formats.items():
        step = make_step(work, mode == "compile", memory_format)
        ms, spread = measure(step, options.round_ms if steps == 1 else 20 * options.round_ms)
        ms *= steps
        if best is None or ms < best[0]:
            best = (ms, spread, name)
    say(work=work["name"], mode=mode, precision=precision, ms=best[0], spread=best[1], format=best[2])


DEFAULTS = {module: module.allow_tf32 for module in (torch.backends.cuda.matmul, torch.backends.cudnn)}
works = json.load(sys.stdin)
device = torch.cuda.get_device_name() if cuda else "cpu"
say(note=f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, {device}")
if cuda:
    torch.backends.cudnn.benchmark = True


def planned():
    """Cheap things first: what the compiler takes minutes for must not cost the rest."""
    order = {"batch_norm": 0, "conv2d": 1, "resnet_step": 2}
    for mode in ("eager", "compile"):
        for precision in ("fp32", "default"):
            for work in works if mode == "eager" else sorted(works, key=lambda work: order[work["op"]]):
                if precision == "default" and work["op"] == "batch_norm":
                    continue  # nothing in it that TF32 changes
                if mode == "compile" and work["op"] == "resnet_step" and (work["depth"] > 20 or work.get("images")):
                    continue  # compiling 110 layers takes longer than there is
                yield mode, precision, work


for mode, precision, work in planned():
    if out_of_time():
        say(note="PyTorch: out of time")
        break
    try:
        torch.manual_seed(0)
        run(work, mode, precision)
    except Exception as error:  # noqa: BLE001 - the other works go on
        say(work=work["name"], mode=mode, precision=precision, ms=None, error=str(error).split("\n")[0][:200])
    if cuda:
        torch.cuda.empty_cache()
