// Generates one video on an easyanim server: shows progress, saves the file once it is verified, and tells the
// server to stop on Ctrl-C or when the time is over.
import { createHash } from "node:crypto";
import { open, readFile, rename, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import protobuf from "protobufjs";

import type { Completed__Output as Completed } from "./generated/easyanim/v1/Completed.js";
import type { GenerateRequest } from "./generated/easyanim/v1/GenerateRequest.js";
import type { GenerateResponse__Output as GenerateResponse } from "./generated/easyanim/v1/GenerateResponse.js";
import type { GetServerInfoResponse__Output as ServerInfo } from "./generated/easyanim/v1/GetServerInfoResponse.js";
import type { Progress__Output as Progress } from "./generated/easyanim/v1/Progress.js";
import type { VideoServiceClient } from "./generated/easyanim/v1/VideoService.js";
import type { ProtoGrpcType } from "./generated/video.js";

// The contract imports only google.protobuf: in a project of your own, copy this one folder.
const PROTO = fileURLToPath(new URL("../../../proto", import.meta.url));
const definition = loadSync("easyanim/v1/video.proto", {
  includeDirs: [PROTO], longs: String, enums: String, defaults: true, oneofs: true,
});
const { easyanim } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;

// What failures carry, from googleapis' google/rpc/status.proto and error_details.proto.
const rpc = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`).root;

const { values: options } = parseArgs({
  options: {
    address: { type: "string", default: "localhost:50051" },
    prompt: { type: "string", default: "steam rises from the cup" },
    image: { type: "string" }, // first frame: PNG, JPEG or WebP
    out: { type: "string", default: "out.mp4" },
    bucket: { type: "string" }, // height by width, such as 384x672
    steps: { type: "string" },
    solver: { type: "string" }, // one of those that the model is said to have
    "guidance-rescale": { type: "string" }, // 0 to 1
    timeout: { type: "string", default: "3600" }, // seconds
  },
});

try {
  await generate();
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
}

/** Says what the server's model is and makes the video. */
async function generate(): Promise<void> {
  const request: GenerateRequest = { prompt: options.prompt };
  if (options.image !== undefined) request.startImage = await readFile(options.image);
  if (options.bucket !== undefined) request.bucket = options.bucket;
  if (options.steps !== undefined) request.stepCount = Number(options.steps);
  if (options.solver !== undefined) request.acceleration = { solver: options.solver };
  if (options["guidance-rescale"] !== undefined) request.guidanceRescale = Number(options["guidance-rescale"]);

  const client = new easyanim.v1.VideoService(options.address, grpc.credentials.createInsecure());
  try {
    console.log(introduce(await ask(client)));
    await make(client, request);
  } finally {
    client.close();
  }
}

/** What the server says of itself. */
function ask(client: VideoServiceClient): Promise<ServerInfo> {
  return new Promise((resolve, reject) => {
    client.GetServerInfo({}, (error, info) => (error ? reject(error) : resolve(info!)));
  });
}

/** Saves the video that answers the request. */
async function make(client: VideoServiceClient, request: GenerateRequest): Promise<void> {
  // Beside its place, so that the finished file is moved there in one step or not at all.
  const partial = `${options.out}.part`;
  let file = await open(partial, "w");
  const call = client.Generate(request, { deadline: Date.now() + Number(options.timeout) * 1000 });
  const cancel = () => call.cancel(); // which stops the work on the GPU
  process.once("SIGINT", cancel).once("SIGTERM", cancel);
  try {
    let digest = createHash("sha256");
    let size = 0;
    let completed: Completed | null = null;
    for await (const response of call as AsyncIterable<GenerateResponse>) {
      switch (response.event) { // kinds that a newer server may send are passed over
        case "accepted":
          console.log(`job ${response.accepted?.jobId}: ${response.accepted?.parameters?.bucket}`);
          break;
        case "queued":
          console.log(`queued, ${response.queued?.jobsAheadCount} ahead`);
          break;
        case "progress":
          console.log(describe(response.progress!));
          break;
        case "chunk": {
          const { offsetBytes, data } = response.chunk!;
          if (Number(offsetBytes) !== size) throw new Error(`a chunk starts at ${offsetBytes}, expected was ${size}`);
          await file.writeFile(data);
          digest.update(data);
          size += data.length;
          break;
        }
        case "restarted": // the server lost its GPU process; the file begins anew
          console.log(`restarted, run ${response.restarted?.attempt}: ${response.restarted?.detail}`);
          await file.close();
          file = await open(partial, "w");
          [digest, size] = [createHash("sha256"), 0];
          break;
        case "completed":
          completed = response.completed!;
      }
    }
    const sha256 = digest.digest();
    if (completed === null || Number(completed.sizeBytes) !== size || !sha256.equals(completed.sha256)) {
      throw new Error("what arrived is not the file that the server announced");
    }
    await file.close();
    await rename(partial, options.out);
    const made = completed.receipt!.parameters!;
    console.log(`${options.out}: ${size} bytes, SHA-256 ${sha256.toString("hex")}, ${made.solver}, seed ${made.seed}`);
  } finally {
    call.cancel(); // of no effect on a call that has ended
    await file.close();
    await rm(partial, { force: true });
    process.off("SIGINT", cancel).off("SIGTERM", cancel);
  }
}

/**
 * What the server's model is: V5 and V5.1 read prompts with other tokenizers and have other solvers. All but the name
 * is empty until the model is loaded.
 */
function introduce({ model, tasks, solvers, tokenizers }: ServerInfo): string {
  const read = tokenizers.map(({ name, maxTokenCount }) => `; ${name} reads ${maxTokenCount} tokens`).join("");
  const can = `makes videos from ${tasks.join(", ")}; solvers ${solvers.join(", ")}`;
  return `${model?.name}, ${model?.family}: ${can}${read}`;
}

/** Where a generation stands, in one line. */
function describe(progress: Progress): string {
  const phase = progress.phase.replace("PHASE_", "").toLowerCase();
  const eta = progress.etaDuration; // unset until something was measured
  const left = eta ? `, ${(Number(eta.seconds) + eta.nanos / 1e9).toFixed(1)} s left` : "";
  return `${phase} ${progress.completedCount}/${progress.totalCount}${left}`;
}

/** What went wrong and what the caller can do about it: the server's google.rpc details in words. */
function explain(error: unknown): string {
  const failure = error as grpc.ServiceError;
  if (failure.code === undefined || !(failure.metadata instanceof grpc.Metadata)) return String(error);
  if (failure.code === grpc.status.CANCELLED) return "cancelled; the server was told to stop";
  const lines = [`${grpc.status[failure.code]}: ${failure.details}`];
  for (const packed of failure.metadata.get("grpc-status-details-bin")) {
    const status = rpc.lookupType("Status").decode(packed as Buffer) as unknown as {
      details: { typeUrl: string; value: Uint8Array }[];
    };
    for (const { typeUrl, value } of status.details) {
      const name = typeUrl.split(".").at(-1)!;
      if (!["BadRequest", "RetryInfo", "ErrorInfo"].includes(name)) continue;
      const type = rpc.lookupType(name);
      const detail = type.toObject(type.decode(value), { longs: Number, defaults: true });
      if (name === "BadRequest") {
        for (const { field, description } of detail.fieldViolations) lines.push(`  ${field} ${description}`);
      } else if (name === "RetryInfo") {
        lines.push(`  try again in ${detail.retryDelay.seconds + detail.retryDelay.nanos / 1e9} s`);
      } else {
        lines.push(`  reason ${detail.reason} ${JSON.stringify(detail.metadata)}`);
      }
    }
  }
  return lines.join("\n");
}
