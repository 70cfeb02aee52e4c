//go:build race

package agentconn_test

const raceDetector = true
