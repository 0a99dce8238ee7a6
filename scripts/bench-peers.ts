// `npm run bench:peers`: the comparison in bench/peers, whose libraries are installed there first.
import { spawnSync } from "node:child_process";
import { installPeers, PEERS } from "./lib/peers.ts";

installPeers("bench:peers");
const args = ["--import", "tsx", `${PEERS}main.ts`, ...process.argv.slice(2)];
const { status, error } = spawnSync(process.execPath, args, { stdio: "inherit" });
if (error) throw error;
process.exitCode = status ?? 1;
