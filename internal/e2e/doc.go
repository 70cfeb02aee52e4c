// Package e2e drives the built agentlab with MCP clients that others wrote and
// that run on Node.js. Run it with `make e2e`.
package e2e
