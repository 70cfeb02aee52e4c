package cli

import "testing"

func TestEscape(t *testing.T) {
	for _, tt := range []struct {
		keys  []string
		pass  string
		leave bool
	}{
		{[]string{"ls ~\r"}, "ls ~\r", false},
		{[]string{"~."}, "", true},
		{[]string{"ls\r", "~", "."}, "ls\r", true},
		{[]string{"ls ~."}, "ls ~.", false},
		{[]string{"~~."}, "~.", false},
		{[]string{"~", "x"}, "~x", false},
		{[]string{"~\r~."}, "~\r", true},
		{[]string{"\n~~\n~."}, "\n~\n", true},
	} {
		var e escape
		var pass string
		leave := false
		for _, keys := range tt.keys {
			var p []byte
			p, leave = e.pass([]byte(keys))
			pass += string(p)
		}
		if leave != tt.leave || !leave && pass != tt.pass {
			t.Errorf("%q: got %q, %v; want %q, %v", tt.keys, pass, leave, tt.pass, tt.leave)
		}
	}
}
