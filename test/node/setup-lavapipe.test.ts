import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { run } from "./children.ts";

/** The script on a system that has these files under /etc; it changes nothing there. */
async function rehearse(files: Record<string, string>) {
  const root = mkdtempSync(join(tmpdir(), "fusenorm-test-"));
  for (const [name, text] of Object.entries(files)) {
    const path = join(root, "etc", name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
  return run("sh", ["scripts/setup-lavapipe.sh"], { FUSENORM_SYSTEM_ROOT: root });
}

const bookworm = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n';
const backports = (uri: string, key: string) =>
  `Types: deb\n    URIs: ${uri}\n    Suites: bookworm-backports\n    Components: main\n    Signed-By: ${key}\n`;

describe("setup-lavapipe.sh", () => {
  it("takes mirror and keyring for Debian 12 from its deb822 sources", async () => {
    const { code, stdout, stderr } = await rehearse({
      "os-release": bookworm,
      "apt/sources.list.d/debian.sources":
        "Types: deb\nURIs: http://security.test/s\nSuites: bookworm-security\nSigned-By: /k/s.gpg\n\n# main\nTypes: deb deb-src\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k/main.gpg",
    });
    expect(code, stderr).toBe(0);
    expect(stdout).toContain(backports("http://mirror.test/debian", "/k/main.gpg"));
    expect(stdout).toContain("-t bookworm-backports mesa-vulkan-drivers libvulkan1");
    expect(stdout).toContain("nothing was changed");
  });

  it("takes them from a sources.list of one-line entries, with and without options", async () => {
    const security =
      "# deb http://old.test bookworm main\ndeb http://security.test/s bookworm-security main\n";
    const entries = {
      "deb [arch=amd64 signed-by=/k/a.gpg] http://mirror.test/debian bookworm main contrib\n": "/k/a.gpg",
      "deb http://mirror.test/debian bookworm main\n": "/usr/share/keyrings/debian-archive-keyring.gpg",
    };
    for (const [entry, key] of Object.entries(entries)) {
      const { code, stdout } = await rehearse({
        "os-release": bookworm,
        "apt/sources.list": security + entry,
      });
      expect(code).toBe(0);
      expect(stdout).toContain(backports("http://mirror.test/debian", key));
    }
  });

  it("adds no source twice", async () => {
    const { code, stdout } = await rehearse({
      "os-release": bookworm,
      "apt/sources.list":
        "deb http://mirror.test/debian bookworm main\ndeb http://mirror.test/debian bookworm-backports main\n",
    });
    expect(code).toBe(0);
    expect(stdout).toContain("is a source already");
    expect(stdout).not.toContain("fusenorm-backports.sources");
  });

  it("installs from the system's own suite where that is new enough", async () => {
    for (const release of [
      "ID=debian\nVERSION_CODENAME=trixie\n",
      "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n",
    ]) {
      const { code, stdout } = await rehearse({ "os-release": release });
      expect(code).toBe(0);
      expect(stdout).toContain("apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1");
      expect(stdout).not.toContain("backports");
    }
  });

  it("says what to install elsewhere, and what is missing", async () => {
    const cases: [string, RegExp][] = [
      ['ID=fedora\nPRETTY_NAME="Fedora 42"\n', /on Fedora 42, .*dnf install/],
      ["ID=arch\n", /vulkan-swrast/],
      ["ID=opensuse-tumbleweed\nID_LIKE=suse\n", /zypper/],
      ["ID=alpine\n", /glibc/],
      ["ID=plan9\n", /not known here/],
      [bookworm, /no apt source of this machine serves bookworm/],
    ];
    for (const [release, expected] of cases) {
      const { code, stderr } = await rehearse({ "os-release": release });
      expect(code).toBe(1);
      expect(stderr).toMatch(expected);
    }
  });

  it("refuses an argument that it does not know", async () => {
    const { code, stderr } = await run("sh", ["scripts/setup-lavapipe.sh", "--now"]);
    expect(code).toBe(2);
    expect(stderr).toContain("unknown argument --now");
  });
});
