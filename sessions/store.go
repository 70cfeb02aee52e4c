package sessions

// Store keeps sandboxes and events. The store package implements it.
type Store interface{}
