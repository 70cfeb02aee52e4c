//go:build race

package sessions_test

// Under the race detector, which has an end to what it can keep of one test, as
// many must do as show a race.
const (
	schedules = 10_000
	listed    = 500
)
