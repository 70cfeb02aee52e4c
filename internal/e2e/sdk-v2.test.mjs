// The TypeScript SDK of 2026, which speaks both eras of the protocol.
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

import { SERVER, scenario } from './scenario.mjs';

const connect = (mode) => async () => {
  const client = new Client({ name: 'e2e-sdk-v2', version: '1.0.0' }, { versionNegotiation: { mode } });
  await client.connect(new StdioClientTransport({ ...SERVER, env: process.env }));
  return {
    server: client.getServerVersion(),
    protocol: client.getNegotiatedProtocolVersion(),
    list: async () => (await client.listTools()).tools,
    call: (name, args, options) => client.callTool({ name, arguments: args }, options),
    close: () => client.close(),
  };
};

scenario('sdk-v2-legacy', connect('legacy'), '2025-11-25');
scenario('sdk-v2-auto', connect('auto'), '2026-07-28');
scenario('sdk-v2-modern', connect({ pin: '2026-07-28' }), '2026-07-28');
