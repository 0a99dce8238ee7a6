import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { DeviceError } from "../../src/errors.ts";
import {
  type AdapterClass,
  classify,
  discover,
  type Machine,
  type Opener,
  parseWish,
  survey,
  thisMachine,
} from "../../src/node/adapters.ts";
import { isOpenedAnyway } from "../../src/node/native.ts";

const EMBEDDED = { loader: "/cache/libvulkan.so.1", manifest: "/cache/swiftshader.json" };
const LAVAPIPE = "/usr/share/vulkan/icd.d/lvp_icd.json";
const VENDOR = "/usr/share/vulkan/icd.d/vendor_icd.json";

interface Fake {
  platform?: NodeJS.Platform;
  env?: Record<string, string>;
  systemLoader?: boolean;
  manifests?: string[];
  extra?: string[];
  noEmbedded?: boolean;
}

function fakeMachine(fake: Fake): Machine & { opened: string[] } {
  const opened: string[] = [];
  return {
    opened,
    platform: fake.platform ?? "linux",
    env: fake.env ?? {},
    openLoader: (name) => {
      const there = name === "libvulkan.so.1" ? (fake.systemLoader ?? true) : name === EMBEDDED.loader;
      if (there) opened.push(name);
      return there;
    },
    manifests: () => fake.manifests ?? [],
    extraManifests: () => fake.extra ?? [],
    embedded: async () => {
      if (fake.noEmbedded) throw new DeviceError("embedded SwiftShader: it is not installed");
      return EMBEDDED;
    },
  };
}

/** Adapters by the driver files that bring them; "" is what the loader finds by itself. */
function fakeOpener(byDrivers: Record<string, { name: string; class: AdapterClass }[]>) {
  const asked: string[] = [];
  const adapters = (env: Record<string, string>) => {
    const drivers = env.VK_DRIVER_FILES ?? "";
    asked.push(drivers);
    return byDrivers[drivers] ?? [];
  };
  const opener: Opener<string> = {
    open: async (env, name) => {
      const found = adapters(env).find((adapter) => name === undefined || adapter.name === name);
      return found ? { ...found, adapter: found.name } : null;
    },
    list: async (env) => adapters(env).map((adapter) => adapter.name),
  };
  return { opener, asked };
}

const card = { name: "Fancy Card 9000", class: "hardware" as const };
const llvmpipe = { name: "llvmpipe (LLVM 19)", class: "lavapipe" as const };
const swiftshader = { name: "SwiftShader Device (Subzero)", class: "swiftshader" as const };

describe("adapter discovery", () => {
  it("takes hardware where the system has it, and looks no further", async () => {
    const { opener, asked } = fakeOpener({ "": [card], [EMBEDDED.manifest]: [swiftshader] });
    const machine = fakeMachine({ manifests: [VENDOR, LAVAPIPE] });
    const found = await discover(parseWish(undefined), machine, opener);
    expect(found.class).toBe("hardware");
    expect(found.env).toEqual({});
    expect(asked).toEqual([""]);
    expect(machine.opened).toEqual(["libvulkan.so.1"]);
  });

  it("takes lavapipe before the embedded SwiftShader", async () => {
    const { opener, asked } = fakeOpener({ "": [llvmpipe], [EMBEDDED.manifest]: [swiftshader] });
    const found = await discover(parseWish(""), fakeMachine({ manifests: [LAVAPIPE] }), opener);
    expect(found.class).toBe("lavapipe");
    expect(asked).toEqual([""]);
  });

  it("prefers a host's hardware driver to the system's software one", async () => {
    const extra = "/usr/local/vendor/icd.json";
    const { opener } = fakeOpener({ "": [llvmpipe], [extra]: [card] });
    const found = await discover(
      parseWish(undefined),
      fakeMachine({ manifests: [LAVAPIPE], extra: [extra] }),
      opener,
    );
    expect(found.class).toBe("hardware");
    expect(found.env).toEqual({ VK_DRIVER_FILES: extra, VK_ICD_FILENAMES: extra });
  });

  it("keeps the software adapter where the host's driver gives nothing", async () => {
    const { opener } = fakeOpener({ "": [llvmpipe] });
    const found = await discover(
      parseWish(undefined),
      fakeMachine({ manifests: [LAVAPIPE], extra: ["/x.json"] }),
      opener,
    );
    expect(found.class).toBe("lavapipe");
  });

  it("brings loader and driver where the system has neither", async () => {
    const { opener, asked } = fakeOpener({ [EMBEDDED.manifest]: [swiftshader] });
    const machine = fakeMachine({ systemLoader: false });
    const found = await discover(parseWish(undefined), machine, opener);
    expect(found.class).toBe("swiftshader");
    expect(found.env.VK_DRIVER_FILES).toBe(EMBEDDED.manifest);
    expect(machine.opened).toEqual([EMBEDDED.loader]);
    expect(asked).toEqual([EMBEDDED.manifest]);
  });

  it("brings the loader alone for a system's driver without one", async () => {
    const { opener } = fakeOpener({ "": [card] });
    const machine = fakeMachine({ systemLoader: false, manifests: [VENDOR] });
    expect((await discover(parseWish(undefined), machine, opener)).class).toBe("hardware");
    expect(machine.opened).toEqual([EMBEDDED.loader]);
  });

  it("brings the driver alone where the system's are of no use, as Debian 12's Mesa is", async () => {
    const { opener } = fakeOpener({ "": [], [EMBEDDED.manifest]: [swiftshader] });
    const machine = fakeMachine({ manifests: [LAVAPIPE] });
    expect((await discover(parseWish(undefined), machine, opener)).class).toBe("swiftshader");
    expect(machine.opened).toEqual(["libvulkan.so.1", "libvulkan.so.1"]);
  });

  it("leaves drivers that the user chose as they are", async () => {
    const { opener, asked } = fakeOpener({ "": [llvmpipe] });
    const machine = fakeMachine({ env: { VK_DRIVER_FILES: "/own.json" } });
    expect((await discover(parseWish(undefined), machine, opener)).env).toEqual({});
    expect(asked).toEqual([""]);
  });

  it("needs no search on other systems", async () => {
    const { opener } = fakeOpener({ "": [card] });
    const machine = fakeMachine({ platform: "darwin", systemLoader: false, noEmbedded: true });
    expect((await discover(parseWish(undefined), machine, opener)).class).toBe("hardware");
    expect(machine.opened).toEqual([]);
  });

  it("obeys an override by class", async () => {
    const { opener, asked } = fakeOpener({
      "": [card],
      [LAVAPIPE]: [llvmpipe],
      [EMBEDDED.manifest]: [swiftshader],
    });
    const machine = fakeMachine({ manifests: [VENDOR, LAVAPIPE] });
    expect((await discover(parseWish("lavapipe"), machine, opener)).name).toBe(llvmpipe.name);
    expect((await discover(parseWish("SwiftShader"), machine, opener)).name).toBe(swiftshader.name);
    // The hardware's driver isn't even loaded.
    expect(asked).toEqual([LAVAPIPE, EMBEDDED.manifest]);
    expect((await discover(parseWish("hardware"), machine, opener)).name).toBe(card.name);
  });

  it("obeys an override by name, on any route and in any case", async () => {
    const second = { name: "Fancy Card 8000", class: "hardware" as const };
    const { opener } = fakeOpener({ "": [card, second], [EMBEDDED.manifest]: [swiftshader] });
    const machine = fakeMachine({ manifests: [VENDOR] });
    expect((await discover(parseWish("card 8"), machine, opener)).name).toBe(second.name);
    expect((await discover(parseWish("subzero"), machine, opener)).name).toBe(swiftshader.name);
  });
});

describe("adapter discovery, when it fails", () => {
  const failure = async (wish: string, fake: Fake, byDrivers: Parameters<typeof fakeOpener>[0] = {}) => {
    const error = await discover(parseWish(wish), fakeMachine(fake), fakeOpener(byDrivers).opener).then(
      () => null,
      (error: Error) => error,
    );
    expect(error).toBeInstanceOf(DeviceError);
    return error!.message;
  };

  it("says what a bare machine lacks", async () => {
    const message = await failure("", { systemLoader: false, noEmbedded: true });
    expect(message).toContain("no Vulkan driver is installed");
    expect(message).toContain("embedded SwiftShader: it is not installed");
    expect(message).toContain("install a Vulkan driver");
  });

  it("names what there is instead of hardware", async () => {
    const message = await failure("hardware", { manifests: [LAVAPIPE] }, { "": [llvmpipe] });
    expect(message).toContain("llvmpipe (LLVM 19) (lavapipe)");
    expect(message).toContain("leave the wish out (--adapter, FUSENORM_ADAPTER)");
  });

  it("says how to get lavapipe, and that an old one is of no use", async () => {
    expect(await failure("lavapipe", {})).toMatch(/not installed.*setup:lavapipe/);
    const old = await failure("lavapipe", { manifests: [LAVAPIPE] });
    expect(old).toMatch(/no usable adapter.*must be of Mesa 24 or newer/);
    expect(old).not.toContain("install ");
    expect(await failure("lavapipe", { platform: "darwin" }, { "": [card] })).toContain("exists on Linux");
  });

  it("tells nobody to install what is installed", async () => {
    const broken = await failure("swiftshader", {});
    expect(broken).toMatch(/embedded SwiftShader: no usable adapter/);
    expect(broken).not.toContain("npm install");
    expect(await failure("swiftshader", { platform: "darwin" })).toContain("it exists on x64 Linux");
  });

  it("lists the names for a name that fits none", async () => {
    const message = await failure(
      "voodoo",
      { manifests: [VENDOR] },
      { "": [card], [EMBEDDED.manifest]: [swiftshader] },
    );
    expect(message).toContain('"voodoo"');
    expect(message).toContain(card.name);
    expect(message).toContain(swiftshader.name);
  });
});

describe("classify", () => {
  it.each<[AdapterClass, Record<string, string | boolean>]>([
    ["hardware", { vendor: "nvidia", architecture: "hopper", description: "NVIDIA: 550.54.14" }],
    ["hardware", { vendor: "apple", architecture: "metal-3" }],
    ["lavapipe", { vendor: "mesa", architecture: "software", device: "llvmpipe-llvm-15-0-6-256-bits-" }],
    ["swiftshader", { vendor: "google", architecture: "swiftshader", isFallbackAdapter: true }],
    ["software", { vendor: "microsoft", description: "Microsoft Basic Render Driver" }],
    ["software", { vendor: "someone", isFallbackAdapter: true }],
  ])("%s: %o", (expected, info) => {
    expect(classify(info)).toBe(expected);
  });
});

it("survey reports the machine without asking for an adapter", async () => {
  const seen = await survey(
    fakeMachine({
      manifests: [LAVAPIPE],
      noEmbedded: true,
      env: { VK_DRIVER_FILES: "/own.json", HOME: "/home/me" },
    }),
  );
  expect(seen).toEqual({
    systemLoader: true,
    manifests: [LAVAPIPE],
    extraManifests: [],
    embedded: { missing: "embedded SwiftShader: it is not installed" },
    env: { VK_DRIVER_FILES: "/own.json" },
  });
});

describe("opening a library that is no add-on", () => {
  it("worked when it alone is missed that Node's add-ons do", () => {
    expect(isOpenedAnyway("Module did not self-register: 'libvulkan.so.1'.")).toBe(true);
  });

  it.each([
    "libvulkan.so.1: cannot open shared object file: No such file or directory",
    "/x/package.json: invalid ELF header",
    "libvulkan.so.1: undefined symbol: vkGetInstanceProcAddr",
  ])("failed: %s", (message) => expect(isOpenedAnyway(message)).toBe(false));

  it("is told apart on this machine", () => {
    const { openLoader } = thisMachine();
    expect(openLoader(join(tmpdir(), "no-such-library.so.1"))).toBe(false);
    expect(openLoader(fileURLToPath(import.meta.url))).toBe(false);
  });
});
