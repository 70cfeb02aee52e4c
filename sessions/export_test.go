package sessions

// Remove asks for the removal of a machine, as a mistake of ours might.
func (m *Manager) Remove(sb Sandbox) { m.remove(sb) }
