//go:build !race

package pvecontract_test

const raceDetector = false
