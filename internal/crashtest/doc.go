// Package crashtest kills the daemon, as kill -9 does, at each of its
// fail-points in each thing it does, starts it again, and looks whether what is
// promised of a crash holds: no machine without a record, no record that never
// ends, nothing left of what ended, nothing lost that lives, and nothing touched
// that is another's. It has nothing but tests, which use the built program as a
// user would.
//
// No list of fail-points is kept. Each operation is done once to see which it
// passes, and then once for each of them; whatever an operation comes to do is
// therefore tried without anything being changed here.
package crashtest
