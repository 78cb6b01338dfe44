// A Node caller with nothing of ours but the contract: node caller.mjs <protos> <vendored protos> <target> <token> <agent>
// Prints one JSON object: what a full stream, a cancelled one, a late one and a refused one looked like from here.

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [protos, vendor, target, token, agent] = process.argv.slice(2);
const definition = loader.loadSync("agentsvc/v1/agent_service.proto", {
  includeDirs: [protos, vendor],
  keepCase: true,
  enums: String,
  oneofs: true,
});
const { AgentService } = grpc.loadPackageDefinition(definition).agentsvc.v1;
const client = new AgentService(target, grpc.credentials.createInsecure());

// google.protobuf.Struct comes with the loader, which knows its fields by their JSON names.
const list = (...values) => ({ listValue: { values } });
const struct = (fields) => ({ structValue: { fields } });
const text = (value) => ({ stringValue: value });
const step = (kind, fields = {}) => struct({ do: text(kind), ...fields });
const say = (value) => step("text", { text: text(value) });

function ask(steps, { agentId = agent, bearer = token, deadline, until } = {}) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${bearer}`);
  const options = { provider_options: { fields: { script: list(...steps) } } };
  return new Promise((resolve) => {
    const seen = { events: [], text: "" };
    const request = { agent_id: agentId, message: "hi", options };
    const call = client.StreamChat(request, metadata, deadline ? { deadline: Date.now() + deadline } : {});
    call.on("data", ({ event }) => {
      seen.events.push(event.kind);
      seen.text += event.text_delta?.text ?? "";
      if (event.kind === until) call.cancel();
    });
    call.on("error", (error) => {
      const rich = error.metadata.get("grpc-status-details-bin")[0];
      resolve({ ...seen, code: grpc.status[error.code], details: rich ? rich.toString("latin1") : "" });
    });
    call.on("end", () => resolve({ ...seen, code: "OK" }));
  });
}

console.log(
  JSON.stringify({
    full: await ask([say("It is 18 degrees in Paris.")]),
    cancelled: await ask([say("Once"), step("stall")], { until: "text_delta" }),
    late: await ask([say("Once"), step("stall")], { deadline: 500 }),
    refused: await ask([say("Never.")], { agentId: "nobody" }),
    unknown: await ask([say("Never.")], { bearer: "wrong" }),
  }),
);
client.close();
