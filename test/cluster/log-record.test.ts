import { describe, expect, test } from "bun:test";
import { RECORD_HEAD_BYTES, RecordKind, decodeRecord, encodeRecord, partsOf } from "../../src/cluster/log-record.ts";
import { ClusterError } from "../../src/cluster/shared-log.ts";
import { Random, seedFor } from "../support/random.ts";

const RECORD = {
  kind: RecordKind.Turn,
  owner: Buffer.from("0123456789abcdef"),
  counter: 2 ** 40 + 1,
  part: 2,
  parts: 70_000,
  body: Buffer.from("entries"),
};

/** An encoded record with another byte in its head. */
function changed(at: number, byte: number): Buffer {
  const bytes = encodeRecord(RECORD);
  bytes[at] = byte;
  return bytes;
}

describe("a record of the shared log", () => {
  test("is decoded as it was encoded", () => {
    expect(decodeRecord(encodeRecord(RECORD))).toEqual(RECORD);
    expect(encodeRecord(RECORD)).toHaveLength(RECORD_HEAD_BYTES + RECORD.body.length);
  });

  test("of a newer format, or of none, is an error that names both", () => {
    const message = "the shared log has a record of format 3, and this version reads formats up to 2; ";
    expect(() => decodeRecord(changed(0, 3))).toThrow(message);
    expect(() => decodeRecord(changed(0, 0))).toThrow("a record of format 0");
  });

  test("of an earlier format is decoded", () => {
    expect(decodeRecord(changed(0, 1))).toEqual(RECORD);
  });

  test.each([
    ["of an unknown kind", changed(1, 9)],
    ["with part 0", changed(4, 0)],
    ["with a part above the last one", changed(6, 200)],
    ["that is shorter than its head", encodeRecord(RECORD).subarray(0, RECORD_HEAD_BYTES - 1)],
    ["that is empty", Buffer.alloc(0)],
  ])("%s is a ClusterError", (_what, bytes) => {
    expect(() => decodeRecord(bytes)).toThrow(ClusterError);
  });

  test("of random bytes is decoded or is a ClusterError", () => {
    const random = new Random(seedFor("records"));
    for (let i = 0; i < 2_000; i++) {
      const bytes = encodeRecord(RECORD);
      for (let j = random.between(1, 8); j > 0; j--) bytes[random.below(RECORD_HEAD_BYTES)] = random.below(256);
      try {
        decodeRecord(bytes.subarray(0, random.between(0, bytes.length)));
      } catch (error) {
        expect(error).toBeInstanceOf(ClusterError);
      }
    }
  });
});

test("a turn needs as many records as its bytes take, and an empty one needs one", () => {
  const recordBytesMax = RECORD_HEAD_BYTES + 10;
  expect([0, 1, 10, 11, 20, 21].map((bytes) => partsOf(bytes, recordBytesMax))).toEqual([1, 1, 1, 2, 2, 3]);
});
