package pvetest

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// route is one call of the API.
type route struct {
	method, path string
	perm         string // what permitted reads; empty is any user
	perm9        string // instead of perm since 9.0, if not empty
	params       string // what parseParams reads, beside those of the path
	params9      string // in addition since 9.0
	anywhere     bool   // done where it was asked for, whatever node the path names
	shows        string // keys that a table of pvesh has, those that PVE documents; empty is all
	daemon       bool   // needs root: one of the node's three pvedaemon workers does it
	call         func(*call) (any, error)

	segs  []string
	specs map[string]*param
}

// call is one request on its way through the API.
type call struct {
	s      *Server
	entry  string // the node that was asked
	node   *Node  // the node that does it
	who    identity
	method string
	segs   []string
	in     map[string]any
	file   []byte // that was uploaded
	p      params
	route  *route
	shell  *shell // set when pvesh asks, not HTTP
	job    *job   // the task it has started
}

// routes of all files, in the order in which they match.
func routes(release int) []*route {
	var all []*route
	for _, list := range [][]*route{
		clusterRoutes(), backupRoutes(), accessRoutes(), poolRoutes(), taskRoutes(), storageRoutes(), vmRoutes(), diskRoutes(), snapshotRoutes(), agentRoutes(), firewallRoutes(), consoleRoutes(),
	} {
		all = append(all, list...)
	}
	for _, r := range all {
		r.segs = strings.Split(strings.TrimPrefix(r.path, "/"), "/")
		text := r.params
		if release >= 900 {
			text += " " + r.params9
			if r.perm9 != "" {
				r.perm = r.perm9
			}
		}
		r.specs = parseParams(text)
		for _, seg := range r.segs {
			if name, ok := pathParam(seg); ok && r.specs[name] == nil {
				r.specs[name] = pathSpec(name)
			}
		}
	}
	return all
}

func pathParam(seg string) (string, bool) {
	if strings.HasPrefix(seg, "{") {
		return strings.Trim(seg, "{}"), true
	}
	return "", false
}

// match finds the route and takes the parameters out of the path. A volume and
// a network take all the rest of the path, since they have a slash.
func (s *Server) match(c *call) bool {
	s.mu.Lock()
	if s.c.table == nil {
		s.c.table = routes(s.release())
	}
	table := s.c.table
	s.mu.Unlock()
	for _, r := range table {
		if r.method != c.method {
			continue
		}
		vars, ok := matchSegs(r.segs, c.segs)
		if !ok {
			continue
		}
		c.route, c.p = r, params{}
		for k, v := range vars {
			c.p[k] = v
		}
		return true
	}
	return false
}

func matchSegs(want, got []string) (map[string]string, bool) {
	vars := map[string]string{}
	for i, w := range want {
		if i >= len(got) {
			return nil, false
		}
		name, isVar := pathParam(w)
		switch {
		case isVar && (name == "volume" || name == "cidr"):
			vars[name] = strings.Join(got[i:], "/")
			return vars, true
		case isVar:
			vars[name] = got[i]
		case w != got[i]:
			return nil, false
		}
	}
	return vars, len(want) == len(got)
}

// call does what HTTPServer.pm rest_handler does, in its order: find the
// handler, merge the parameters, check permission, go to the node, check the
// parameters, call.
func (s *Server) call(c *call) (any, *apiError) {
	if !s.match(c) {
		return nil, &apiError{status: 501, exact: true,
			message: fmt.Sprintf("Method '%s /%s' not implemented", c.method, strings.Join(c.segs, "/"))}
	}
	for k, v := range c.in {
		if old, ok := c.p[k]; ok && old != v {
			return nil, badParam(k, "duplicate parameter (already defined in URI) with conflicting values!")
		}
	}
	maps.Copy(c.p, c.in)
	s.mu.Lock()
	err := c.permitted(c.route.perm)
	var w *worker
	if err == nil {
		err = c.place()
	}
	if err == nil && c.route.daemon && c.shell == nil {
		w = c.node.pick()
	}
	hung := err == nil && c.node.Hung
	s.mu.Unlock()
	if err != nil {
		return nil, asAPIError(err)
	}
	if hung {
		_ = s.pause(s.patience(proxyPatience, 10))
		return nil, &apiError{status: 596, message: "Connection timed out", bare: true}
	}
	if w == nil {
		return c.handle()
	}
	return s.inWorker(w, c.handle)
}

// place finds the node that is to do the call.
func (c *call) place() error {
	name, ok := c.p["node"].(string)
	if !ok || name == "localhost" || c.route.anywhere {
		name = c.entry
	}
	c.node = c.s.c.node(name)
	if c.node == nil {
		return die("hostname lookup '%[1]s' failed - failed to get address info for: %[1]s: Temporary failure in name resolution", name)
	}
	if c.node.Down {
		return &apiError{status: 595, message: "No route to host", bare: true}
	}
	return nil
}

// handle checks the parameters and calls the handler under the lock.
func (c *call) handle() (any, *apiError) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.CallTime > 0 {
		if err := s.sleep(s.ctx, s.CallTime); err != nil {
			return nil, asAPIError(err)
		}
	}
	if errs := c.p.check(c.route.specs); len(errs) > 0 {
		return nil, badParams(errs)
	}
	if c.route.daemon && c.s.c.NoQuorum && c.method != "GET" && !strings.Contains(c.route.path, "/agent/") {
		// pve-cluster Cluster.pm check_cfs_quorum (derived)
		return nil, die("cluster not ready - no quorum?")
	}
	data, err := c.route.call(c)
	if err != nil {
		return nil, asAPIError(err)
	}
	return data, nil
}

func asAPIError(err error) *apiError {
	if e, ok := err.(*apiError); ok { //nolint:errorlint // never wrapped
		return e
	}
	return die("%v", err)
}

// vmid is the parameter of that name.
func (c *call) vmid() int { return c.p.num("vmid") }

// vm is the machine the path names, on the node it names.
func (c *call) vm() (*VM, error) {
	id := c.vmid()
	vm := c.s.c.VMs[id]
	if vm == nil || vm.Node != c.node.Name {
		return nil, noConfig(c.node.Name, id)
	}
	return vm, nil
}

// noConfig is PVE::AbstractConfig.pm:57.
func noConfig(node string, id int) *apiError {
	return die("Configuration file 'nodes/%s/qemu-server/%d.conf' does not exist", node, id)
}

// seconds is a parameter in seconds, scaled, with a default.
func (c *call) seconds(name string, def int) time.Duration {
	n := def
	if c.p.has(name) {
		n = c.p.num(name)
	}
	return c.s.scaled(time.Duration(n) * time.Second)
}

// ctx is that of the work a call does: a client that goes away does not end it.
func (c *call) ctx() context.Context { return c.s.ctx }

// params are checked parameters: strings, or []string for arrays.
type params map[string]any

func (p params) has(name string) bool { _, ok := p[name]; return ok }

func (p params) str(name string) string {
	v, _ := p[name].(string)
	return v
}

func (p params) num(name string) int {
	n, _ := strconv.Atoi(p.str(name))
	return n
}

func (p params) flag(name string) bool { return isTrue(p.str(name)) }

// list is an array parameter, or one made of a list in a string.
func (p params) list(name string) []string {
	switch v := p[name].(type) {
	case []string:
		return v
	case string:
		return splitList(v)
	}
	return nil
}
