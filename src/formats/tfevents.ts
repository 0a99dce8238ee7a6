// TensorBoard's event files: records of TFRecord's framing, each an `Event` of TensorFlow's event.proto, of which scalars need a few
// fields. Little-endian, as every platform with WebGPU is.

import { crcTable } from "./crc32.ts";

/** Of Castagnoli, which TFRecord has. */
const TABLE = crcTable(0x82f63b78);

/** @internal CRC-32C of some bytes. */
export function crc32c(bytes: Uint8Array): number {
  let crc = ~0;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Checksums of data that hold checksums are no good: the format stores them turned and moved. */
const masked = (bytes: Uint8Array) => {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
};

const uint32 = (value: number) => new Uint8Array(Uint32Array.of(value).buffer);

/** Length, its checksum, data, their checksum. */
function record(data: Uint8Array): Uint8Array {
  const length = new Uint8Array(BigUint64Array.of(BigInt(data.length)).buffer);
  return joined([length, uint32(masked(length)), data, uint32(masked(data))]);
}

function joined(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** Protocol Buffers' integer: seven bits a byte, the lowest first. */
function varint(value: number): Uint8Array {
  const bytes = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  bytes.push(rest);
  return Uint8Array.from(bytes);
}

const field = (number: number, wireType: number, ...parts: Uint8Array[]) =>
  joined([varint(8 * number + wireType), ...parts]);
const integerField = (number: number, value: number) => field(number, 0, varint(value));
const doubleField = (number: number, value: number) =>
  field(number, 1, new Uint8Array(Float64Array.of(value).buffer));
const floatField = (number: number, value: number) =>
  field(number, 5, new Uint8Array(Float32Array.of(value).buffer));
const bytesField = (number: number, bytes: Uint8Array) => field(number, 2, varint(bytes.length), bytes);
const textField = (number: number, text: string) => bytesField(number, new TextEncoder().encode(text));

/** Numbers of fields in event.proto and summary.proto. */
const EVENT = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 };
const SESSION_LOG = { status: 1 };
const SESSION_STARTS = 1;
const SUMMARY = { value: 1 };
const VALUE = { tag: 1, simpleValue: 2 };

const event = (wallTime: number, ...fields: Uint8Array[]) =>
  record(joined([doubleField(EVENT.wallTime, wallTime), ...fields]));

/**
 * The beginning of a file. It says that a session starts at step 0, which takes what earlier files of the same folder hold from
 * TensorBoard's view: a run that goes on writes its history again.
 * @param wallTime in seconds
 */
export function eventFileHead(wallTime: number): Uint8Array {
  const session = bytesField(EVENT.sessionLog, integerField(SESSION_LOG.status, SESSION_STARTS));
  return joined([
    event(wallTime, textField(EVENT.fileVersion, "brain.Event:2")),
    event(wallTime, integerField(EVENT.step, 0), session),
  ]);
}

/** Numbers of one step, by tag. */
export function scalarsEvent(wallTime: number, step: number, scalars: Record<string, number>): Uint8Array {
  const values = Object.entries(scalars).map(([tag, value]) => {
    const parts = [textField(VALUE.tag, tag), floatField(VALUE.simpleValue, value)];
    return bytesField(SUMMARY.value, joined(parts));
  });
  return event(wallTime, integerField(EVENT.step, step), bytesField(EVENT.summary, joined(values)));
}
