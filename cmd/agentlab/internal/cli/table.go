package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// gap is what stands between columns.
const gap = "  "

// columns are a table: in a terminal as wide as that, with the flexible column
// cut; else as wide as it is.
type columns struct {
	header   []string
	rows     [][]string
	flexible int // index of the column that gives way
}

func (t columns) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, len(gap), ' ', 0)
	most := t.room(width(out))
	for _, r := range append([][]string{t.header}, t.rows...) {
		if r == nil {
			continue
		}
		if most > 0 {
			r = slices.Clone(r)
			r[t.flexible] = cut(r[t.flexible], most)
		}
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t")) // Flush has the error
	}
	return w.Flush()
}

// cut shortens a cell to as many characters.
func cut(cell string, most int) string {
	if runes := []rune(cell); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return cell
}

// room is how wide the flexible column may be so that all fit into total, 0 if
// it need not be cut.
func (t columns) room(total int) int {
	if total == 0 {
		return 0
	}
	const least = 4
	for i := range t.rows[0] {
		if i == t.flexible {
			continue
		}
		wide := 0
		if t.header != nil {
			wide = len(t.header[i])
		}
		for _, r := range t.rows {
			wide = max(wide, utf8.RuneCountInString(r[i]))
		}
		total -= wide + len(gap)
	}
	return max(least, total)
}

// width returns how many characters a line of a terminal has, 0 if out is none.
func width(out io.Writer) int {
	f, ok := out.(*os.File)
	if !ok {
		return 0
	}
	cols, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return cols
}

// Below this width there is no room for a sandbox's profile, and below the next
// none for its address.
const (
	widthOfProfile = 80
	widthOfAddress = 100
)

func printSandboxes(out io.Writer, list []sandbox, now time.Time) error {
	cols := width(out)
	t := columns{header: []string{"ID", "NAME", "STATE", "ENDS IN"}, flexible: 1}
	profile, address := cols == 0 || cols >= widthOfProfile, cols == 0 || cols >= widthOfAddress
	if profile {
		t.header = append(t.header, "PROFILE")
	}
	if address {
		t.header = append(t.header, "IP")
	}
	for _, sb := range list {
		r := []string{sb.ID, cmp.Or(sb.Name, "-"), upper(sb.State), left(sb.Expires.Sub(now))}
		if profile {
			r = append(r, sb.Profile)
		}
		if address {
			r = append(r, cmp.Or(sb.IP, "-"))
		}
		t.rows = append(t.rows, r)
	}
	return t.print(out)
}

// printSandbox prints one, a line for each thing that is known of it.
func printSandbox(out io.Writer, sb sandbox, now time.Time) error {
	state := upper(sb.State)
	if sb.Place > 0 {
		state += fmt.Sprintf(", number %d in line", sb.Place)
	}
	vmid := ""
	if sb.VMID > 0 {
		vmid = strconv.Itoa(sb.VMID)
	}
	t := columns{flexible: 1, rows: [][]string{
		{"ID", sb.ID}, {"NAME", cmp.Or(sb.Name, "-")}, {"PROFILE", sb.Profile}, {"STATE", state},
		{"VMID", cmp.Or(vmid, "-")}, {"IP", cmp.Or(sb.IP, "-")},
		{"ENDS", sb.Expires.Format(time.RFC3339) + ", in " + left(sb.Expires.Sub(now))},
	}}
	if sb.OS != "" {
		t.rows = append(t.rows, []string{"OS", sb.OS})
	}
	if sb.Reason != "" {
		t.rows = append(t.rows, []string{"REASON", sb.Reason})
	}
	return t.print(out)
}

// process is one of a sandbox as list_sandboxes tells of it.
type process struct {
	ID      string    `json:"process_id"`
	Command string    `json:"command"`
	State   string    `json:"state"`
	Started time.Time `json:"started_at"`
}

func printProcesses(out io.Writer, list []process) error {
	t := columns{header: []string{"PROCESS", "STATE", "STARTED", "COMMAND"}, flexible: 3}
	for _, p := range list {
		t.rows = append(t.rows, []string{p.ID, p.State, p.Started.Local().Format(time.TimeOnly), strconv.Quote(p.Command)})
	}
	return t.print(out)
}

// left says how long something lasts, in few characters.
func left(d time.Duration) string {
	switch d = d.Round(time.Second); {
	case d <= 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
