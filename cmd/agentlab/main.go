// Command agentlab gives agents disposable Linux machines as MCP tools. It is
// the daemon that keeps them (agentlab serve) and what an MCP client launches
// over stdio (agentlab mcp), which starts the daemon when there is none. This
// package is wiring: which part is given to which.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
