// Event files, read back as the format's public descriptions say: TFRecord's framing, and event.proto by protobufjs.

import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import protobuf from "protobufjs";
import { afterAll, describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import { crc32c, eventFileHead, scalarsEvent } from "../../src/formats/tfevents.ts";
import { imageDataset, Random, resnetCifar, SGD, Trainer } from "../../src/index.ts";
import { tensorBoardLog } from "../../src/node/index.ts";
import type { Checkpoint } from "../../src/train/checkpoint.ts";
import { testGpu } from "../helpers/gpu.ts";

const folder = mkdtempSync(join(tmpdir(), "fusenorm-tensor-board-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const { root } = protobuf.parse(`
  syntax = "proto3";
  message SessionLog { enum SessionStatus { STATUS_UNSPECIFIED = 0; START = 1; STOP = 2; CHECKPOINT = 3; } SessionStatus status = 1; }
  message Summary { message Value { string tag = 1; oneof value { float simple_value = 2; } } repeated Value value = 1; }
  message Event { double wall_time = 1; int64 step = 2; oneof what { string file_version = 3; Summary summary = 5; SessionLog session_log = 7; } }
`);
const Event = root.lookupType("Event");

/** Bit by bit, as in RFC 3720. */
function checksum(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  const turned = BigInt((crc ^ 0xffffffff) >>> 0);
  return Number((((turned >> 15n) | (turned << 17n)) + 0xa282ead8n) & 0xffffffffn);
}

interface Read {
  wallTime: number;
  step?: string;
  fileVersion?: string;
  sessionLog?: { status: string };
  summary?: { value: { tag: string; simpleValue: number }[] };
}

function parse(file: Uint8Array): Read[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const events: Read[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(view.getBigUint64(at, true));
    expect(view.getUint32(at + 8, true)).toBe(checksum(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(view.getUint32(at + 12 + length, true)).toBe(checksum(data));
    events.push(Event.toObject(Event.decode(data), { longs: String, enums: String }) as Read);
    at += 16 + length;
  }
  return events;
}

const scalars = (events: Read[]) =>
  events.flatMap(({ step, summary }) =>
    (summary?.value ?? []).map(({ tag, simpleValue }) => [Number(step), tag, simpleValue] as const),
  );

describe("event files", () => {
  it("have the checksum that RFC 3720 gives for its examples", () => {
    expect(crc32c(new TextEncoder().encode("123456789"))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
  });

  it("keep steps beyond 2³², tags of any language, and numbers that are not finite", () => {
    const values = { "train/loss": Number.NaN, größe: Number.NEGATIVE_INFINITY, a: -1.5 };
    const events = parse(Buffer.concat([eventFileHead(12.25), scalarsEvent(1.5e9, 2 ** 40 + 77, values)]));
    expect(events[0]).toEqual({ wallTime: 12.25, fileVersion: "brain.Event:2" });
    expect(events[1]).toMatchObject({ wallTime: 12.25, sessionLog: { status: "START" } });
    expect(events[2]!.wallTime).toBe(1.5e9);
    expect(scalars(events)).toEqual(Object.entries(values).map(([tag, value]) => [2 ** 40 + 77, tag, value]));
    for (const step of [0, 1, 127, 128, 16383, 16384, 2 ** 31, 2 ** 53 - 1]) {
      expect(scalars(parse(scalarsEvent(0, step, { a: 1 })))).toEqual([[step, "a", 1]]);
    }
  });
});

describe("tensorBoardLog", () => {
  it("writes what the history says, and all of it anew where a run goes on", async () => {
    const gpu = await testGpu();
    const random = new Random(2);
    const images = Uint8Array.from({ length: 40 * 64 }, () => random.uint32() & 255);
    const set = imageDataset({
      ...{ name: "noise", images, labels: Uint8Array.from({ length: 40 }, (_, i) => i % 4) },
      ...{ height: 8, width: 8, channels: 1, classNames: [..."abcd"] },
    });
    const model = resnetCifar(gpu, { depth: 8, width: 4, inChannels: 1, classes: 4 });
    const optimizer = new SGD(model.parameters(), { lr: 0.1 });
    const make = () =>
      new Trainer({
        ...{ model, optimizer, data: { train: set, test: set } },
        ...{ batchSize: 15, epochs: 2, logEvery: 2 },
      });
    const directory = join(folder, "made", "here");
    const callbacks = [tensorBoardLog(directory)];
    const trainer = make();
    let state: Checkpoint | null = null;
    const { log, evals } = await trainer.run({
      callbacks,
      onCheckpoint: (own) => {
        state ??= own;
      },
    });
    const files = () => readdirSync(directory).sort();
    const read = (name: string) => scalars(parse(readFileSync(join(directory, name))));
    const [first] = files();
    expect(first).toMatch(/^events\.out\.tfevents\.\d+\./);
    const found = read(first!);
    const rows = [
      ...log.map(({ step, ...row }) => ({ step, kind: "train", row })),
      ...evals.map(({ step, epoch, testLoss: loss, testAccuracy: accuracy }) => {
        return { step, kind: "test", row: { epoch, loss, accuracy } };
      }),
    ];
    const expected = rows.flatMap(({ step, kind, row }) =>
      Object.entries(row).map(([name, value]) => [step, `${kind}/${name}`, Math.fround(value)] as const),
    );
    const sorted = (list: readonly (readonly [number, string, number])[]) =>
      [...list].sort(([a, b], [c, d]) => a - c || (b < d ? -1 : 1));
    const isSpeed = ([, tag]: readonly [number, string, number]) => tag === "train/imagesPerSecond";
    expect(sorted(found.filter((one) => !isSpeed(one)))).toEqual(sorted(expected));
    expect(found.filter(isSpeed)).toHaveLength(log.length);

    const second = make();
    second.resume(state!);
    await second.run({ callbacks });
    expect(files()).toHaveLength(2);
    expect(files()[0]).toBe(first);
    expect(sorted(read(files()[1]!).filter((one) => !isSpeed(one)))).toEqual(sorted(expected));
    for (const one of [trainer, second, optimizer, model]) one.dispose();

    writeFileSync(join(folder, "file"), "");
    const blocked = tensorBoardLog(join(folder, "file"));
    await expect((async () => blocked.onStart!({ history: { log, evals } } as never))()).rejects.toThrow(
      DataError,
    );
    expect(() => tensorBoardLog("")).toThrow(/directory is ""; expected a path/);
  });
});
