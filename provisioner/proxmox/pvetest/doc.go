// Package pvetest is a Proxmox VE that is not there: a server with the state of
// a cluster (nodes, storages, pools, VMs, tasks, locks, users, tokens, ACLs)
// that answers as a running PVE answered when it was recorded: status, reason
// phrase, message, which errors come at once and which only in the task. The
// recordings are in testdata; a test replays them.
//
// It never imports our client, so that one misreading of the API is not made
// twice. Comments name the PVE source file a behaviour was read from, or say
// "measured" where it was recorded.
//
// The zero [Server] is ready for use:
//
//	srv := &pvetest.Server{}
//	defer srv.Close()
//	srv.Edit(func(c *pvetest.Cluster) { c.AddTemplate("pve", 9000, "debian") })
//	url := srv.Listen("pve")
//
// It is fast: the waiting times of PVE (10 s for a lock, 3 s for an agent that
// is silent) pass a hundred times as fast unless [Server.Scale] says otherwise.
// Faults are fields and hooks of Server, and marks in the [Cluster] that
// [Server.Edit] shows.
package pvetest
