package guest

// As finds a T in c, looking through wrappers that have Unwrap, as errors.As
// does for errors.
func As[T any](c Conn) (T, bool) {
	for c != nil {
		if t, ok := c.(T); ok {
			return t, true
		}
		w, ok := c.(interface{ Unwrap() Conn })
		if !ok {
			break
		}
		c = w.Unwrap()
	}
	var none T
	return none, false
}
