//go:build race

package histories

// Under the race detector a history takes ten times as long; a few must do for
// what it looks for.
const histories = "2"
