package sessions

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/agentlab-mcp/agentlab/provisioner"
)

// A secret that the cut of a long error goes through is masked all the same.
func TestErrorsAreMaskedBeforeTheyAreCut(t *testing.T) {
	secret := "agentlab_abcdefghij_" + strings.Repeat("a", 59)
	told := func(err error) string {
		known, _ := errors.AsType[*Error](err)
		return known.Msg
	}
	for before := range 300 {
		err := fmt.Errorf("%s %s: %w", strings.Repeat("x", before), secret, provisioner.ErrUnavailable)
		_, stuck := obstacle(err)
		for where, text := range map[string]string{
			"switching": obstacleOf("sb-1", err), "removing": stuck, "making": told(present("sb-1", err)),
			"too large":   told(present("sb-1", fmt.Errorf("%w: %w", provisioner.ErrExhausted, err))),
			"not allowed": told(present("sb-1", fmt.Errorf("%w: %w", provisioner.ErrInvalid, err))),
		} {
			if strings.Contains(text, "agentlab_") {
				t.Fatalf("%s: %s", where, text)
			}
		}
	}
}
