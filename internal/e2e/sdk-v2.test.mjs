// The TypeScript SDK of 2026, which speaks both eras of the protocol.
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

import { HEADERS, scenario, ways } from './scenario.mjs';

const connect = (way, mode) => async () => {
  const client = new Client({ name: 'e2e-sdk-v2', version: '1.0.0' }, { versionNegotiation: { mode } });
  await client.connect(way());
  return {
    server: client.getServerVersion(),
    protocol: client.getNegotiatedProtocolVersion(),
    list: async () => (await client.listTools()).tools,
    call: (name, args, options) => client.callTool({ name, arguments: args }, options),
    close: () => client.close(),
  };
};

const all = ways({
  stdio: (server) => new StdioClientTransport(server),
  http: (url) => new StreamableHTTPClientTransport(url, { requestInit: { headers: HEADERS } }),
  sse: (url) => new SSEClientTransport(url, { requestInit: { headers: HEADERS } }),
});
for (const [kind, way] of Object.entries(all)) {
  scenario(`sdk-v2-legacy-${kind}`, connect(way, 'legacy'), '2025-11-25');
  if (kind === 'sse') continue; // it is of 2024
  scenario(`sdk-v2-auto-${kind}`, connect(way, 'auto'), '2026-07-28');
  scenario(`sdk-v2-modern-${kind}`, connect(way, { pin: '2026-07-28' }), '2026-07-28');
}
