/** What each byte does to a CRC of 32 bits, by the reversed polynomial. */
export function crcTable(polynomial: number): Uint32Array {
  return Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ polynomial : crc >>> 1;
    return crc;
  });
}

const TABLE = /* @__PURE__ */ crcTable(0xedb88320);

/** The CRC-32 of some bytes in several pieces, from 0 to 2³² − 1. */
export function crc32(...pieces: readonly Uint8Array[]): number {
  let crc = ~0;
  for (const bytes of pieces) {
    for (let i = 0; i < bytes.length; i++) crc = TABLE[(crc ^ bytes[i]!) & 255]! ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}
