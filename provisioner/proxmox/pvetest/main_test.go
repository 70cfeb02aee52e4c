package pvetest

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	GuestMain()
	os.Exit(m.Run())
}
