package pvetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"
	"unicode/utf8"
)

// Guest is the inside of a running VM, from the moment QEMU starts until it
// ends.
type Guest interface {
	// Agent opens the channel to the guest agent: the host's end of the
	// virtio-serial port, where qemu-ga speaks its protocol. It is called once.
	Agent(ctx context.Context) (net.Conn, error)
	// Powerdown presses the power button (ACPI). The guest may ignore it.
	Powerdown()
	// Kill ends the guest at once, and returns when it is gone.
	Kill()
	// Done is closed when the guest has ended, by itself or by Kill.
	Done() <-chan struct{}
}

// GuestSpec says what to boot.
type GuestSpec struct {
	VMID   int
	Name   string
	Config map[string]string // as the VM was started with
	Media  map[string][]byte // what is in its CD-ROM drives, by option, if it was uploaded
	// Stock says that what it boots is an image as it was published, without a
	// guest agent. A guest that got one installed says so (Installer).
	Stock bool
	Fresh bool // Stock, and never booted before
	Base  int  // VMID of the template whose disk its own is a linked clone of; 0 is none
}

// Installer is a guest that knows whether it has got a guest agent.
type Installer interface{ Installed() bool }

// spec is what the VM is started with.
func (s *Server) spec(vm *VM) GuestSpec {
	spec := GuestSpec{VMID: vm.ID, Name: vm.name(), Config: maps.Clone(vm.Config), Media: map[string][]byte{}}
	for k, v := range vm.Config {
		vol := s.c.Volumes[parseDrive(k, v).file]
		if !driveKey.MatchString(k) || vol == nil {
			continue
		}
		if vol.Stock {
			spec.Stock, spec.Fresh = true, !vol.booted
		}
		vol.booted = true
		if base := s.c.Volumes[vol.Parent]; base != nil {
			spec.Base = base.VMID
		}
		if vol.Data != nil {
			spec.Media[k] = vol.Data
		}
	}
	return spec
}

// installed notes that what the VM's disks hold has got a guest agent.
func (s *Server) installed(vm *VM, guest Guest) {
	if g, ok := guest.(Installer); !ok || !g.Installed() {
		return
	}
	for k, v := range vm.Config {
		if vol := s.c.Volumes[parseDrive(k, v).file]; driveKey.MatchString(k) && vol != nil {
			vol.Stock = false
		}
	}
}

// machine is a running guest and PVE's side of its agent channel.
type machine struct {
	guest   Guest
	ready   time.Time     // when the agent begins to answer
	never   bool          // it never does
	address time.Time     // when its network has got an address
	turn    chan struct{} // one command at a time: the socket takes one client
	mu      sync.Mutex
	conn    net.Conn
	replies chan string
	id      int
	said    streamer // what the agent has been sent
}

// bootGuest starts the inside of a VM, and watches for its end.
func (s *Server) bootGuest(vm *VM) error {
	spec := s.spec(vm)
	var guest Guest
	var err error
	if s.NewGuest == nil {
		guest = newIdleGuest(spec)
	} else {
		s.unlocked(func() { guest, err = s.NewGuest(spec) })
	}
	if err != nil {
		return err
	}
	if err := s.ctx.Err(); err != nil { // Close has killed what there was
		guest.Kill()
		return err
	}
	m := &machine{guest: guest, turn: make(chan struct{}, 1), ready: time.Now()}
	if s.AgentDelay != nil {
		d := s.AgentDelay(vm.ID)
		m.never, m.ready = d < 0, m.ready.Add(d)
	}
	m.address = m.ready
	if s.AddressDelay != nil {
		m.address = m.ready.Add(s.AddressDelay(vm.ID))
	}
	s.guests[vm.ID] = m
	s.work.Go(func() {
		select {
		case <-guest.Done():
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.guests[vm.ID] == m && vm.Running {
			s.powerOff(vm) // qmeventd notices within a second (measured)
		}
	})
	return nil
}

func (m *machine) kill() {
	m.guest.Kill()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close()
	}
}

// agentError is what the agent says is wrong.
type agentError struct{ desc string }

func (e *agentError) Error() string { return "Agent error: " + e.desc }

var errAgentTimeout = errors.New("got timeout")

// open connects to the agent once and reads its lines.
func (m *machine) open(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		return nil
	}
	conn, err := m.guest.Agent(ctx)
	if err != nil {
		return err
	}
	m.conn, m.replies = conn, make(chan string, 64)
	go func(lines chan<- string) {
		defer close(lines)
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			lines <- line
		}
	}(m.replies)
	return nil
}

// command sends one command and waits for its answer. When what was sent can't
// be answered, since the agent got only a part of it, it waits for deaf.
func (m *machine) command(ctx context.Context, line string, deaf time.Duration) (json.RawMessage, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, errAgentTimeout
	}
	if err := m.open(ctx); err != nil {
		return nil, errAgentTimeout
	}
	m.id++
	sync := fmt.Sprintf(`{"execute":"guest-sync","arguments":{"id":%d}}`, m.id) + "\n"
	deadline, _ := ctx.Deadline()
	_ = m.conn.SetWriteDeadline(deadline)
	sent := miscounted(sync + line + "\n")
	if _, err := m.conn.Write(sent); err != nil {
		return nil, errAgentTimeout
	}
	deafened := !m.answerable(sent)
	if deafened {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, deaf)
		defer cancel()
	}
	synced := false
	for {
		select {
		case <-ctx.Done():
			return nil, errAgentTimeout
		case reply, ok := <-m.replies:
			if !ok {
				return nil, errAgentTimeout
			}
			if !synced {
				synced = m.isSync(reply)
				continue
			}
			if deafened { // it is another agent, which was started since
				m.said = streamer{}
			}
			return parseReply(reply)
		}
	}
}

// answerable says whether an agent that has read all that it was sent answers
// the sync and then something else.
func (m *machine) answerable(sent []byte) bool {
	synced := false
	for _, b := range sent {
		switch msg, bad := m.said.feed(b); {
		case bytes.HasPrefix(msg, []byte(`{"execute":"guest-sync"`)):
			synced = true
		case synced && (bad || msg != nil):
			return true
		}
	}
	return false
}

func (m *machine) isSync(reply string) bool {
	var r struct {
		Return json.RawMessage `json:"return"`
	}
	return json.Unmarshal([]byte(reply), &r) == nil && string(r.Return) == fmt.Sprint(m.id)
}

func parseReply(line string) (json.RawMessage, error) {
	var r struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		return nil, errAgentTimeout
	}
	if r.Error != nil {
		return nil, &agentError{r.Error.Desc}
	}
	return r.Return, nil
}

// miscounted is PVE::QMPClient's bug (QMPClient.pm:295-330, measured): it
// counts characters and writes bytes, so that every character beyond ASCII
// cuts off the end by the bytes it has more than one.
func miscounted(text string) []byte {
	return []byte(text)[:utf8.RuneCountInString(text)]
}
