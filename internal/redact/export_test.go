package redact

// Slowly is Text of what is always looked at.
func Slowly(text string) string { return replace(text) }
