package pvetest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	GuestMain()
	if os.Getenv(pveshEnv) != "" {
		os.Exit(PveshMain())
	}
	os.Exit(m.Run())
}
