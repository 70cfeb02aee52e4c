//go:build !race

package sessions_test

const (
	schedules = 100_000 // how many are played at least
	listed    = 5000    // of these, the most of each small scenario, one after the other
)
