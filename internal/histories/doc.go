// Package histories plays random histories of an installation against a small
// model of what must hold: several principals at once, clocks that jump, a
// daemon that is stopped or killed at any point, a Proxmox VE that fails in all
// ways it has. It has nothing but tests.
//
// All that is AgentLab's is real: [sessions.Manager], the store on a file, the
// Proxmox backend and its client, which speaks HTTPS with the simulator. Only
// what lies at the far side of a wire is not: the simulator, and the inside of
// its machines. A history runs in a bubble of fake time (testing/synctest), with
// connections in memory, so that hours cost milliseconds and nothing depends on
// how fast this machine is.
package histories
