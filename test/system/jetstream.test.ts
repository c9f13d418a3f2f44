import { jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { afterAll } from "bun:test";
import { initJetStream, openJetStream } from "../../src/cluster/jetstream-log.ts";
import { testSharedLog } from "../cluster/conformance.ts";
import { hasNats, NatsEngine } from "../support/nats-engine.ts";

afterAll(NatsEngine.closeAll);

/** Tests change what is stored. */
const UNPROTECTED = { isProtected: false };
/** A new stream after each few records. */
const TINY = { isProtected: false, streamBytesMax: 200 };

/** The record before the first one of a stream. */
const baseOf = (stream: string) => Number(stream.split("-").at(-2));

if (hasNats)
  for (const [name, options] of [
    ["NATS JetStream", UNPROTECTED],
    ["NATS JetStream with tiny streams", TINY],
  ] as const)
    testSharedLog(name, { server: true, damage: true, exactTrim: false }, async (shards) => {
      const server = await NatsEngine.start();
      const url = `nats://${server.address}`;
      await initJetStream(url, shards, options);
      const connection = await connect({ servers: [server.address], maxReconnectAttempts: -1 });
      const streams = (await jetstreamManager(connection)).streams;
      const names = async (subject: string) => (await streams.names(subject).next()) as string[];
      const current = async (shard: number): Promise<string> => {
        const state = await streams.getMessage(`heartline-${shard}-state`, {
          last_by_subj: `heartline.${shard}.state`,
        });
        return state!.json<{ snapshot: { stream: string } }>().snapshot.stream;
      };
      return {
        open: () => openJetStream(url, options),
        server,
        damage: {
          loseRecord: async (shard, sequence) => {
            const found = await names(`heartline.${shard}.log.*.*`);
            const name = found.filter((each) => baseOf(each) < sequence).sort((a, b) => baseOf(b) - baseOf(a))[0]!;
            await streams.deleteMessage(name, sequence - baseOf(name));
          },
          losePart: async (shard, part) => void (await streams.deleteMessage(await current(shard), part + 1)),
          changePart: async (shard, part) => {
            const name = await current(shard);
            const { config, state } = await streams.info(name);
            const parts = [];
            for (let i = 1; i <= state.last_seq; i++) parts.push((await streams.getMessage(name, { seq: i }))!.data);
            await streams.delete(name);
            await streams.add(config);
            parts[part]![0]! ^= 1;
            for (const data of parts) await connection.request(config.subjects[0]!, data);
          },
          countParts: async (shard) => {
            const infos = (await names(`heartline.${shard}.snapshot.*`)).map((name) => streams.info(name));
            return (await Promise.all(infos)).reduce((sum, { state }) => sum + state.messages, 0);
          },
        },
        close: () => connection.close(),
      };
    });
