//go:build !race

package histories

// histories are so many on each flavour.
const histories = "125"
