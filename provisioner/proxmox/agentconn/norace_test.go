//go:build !race

package agentconn_test

const raceDetector = false
