package azure

// ReadChallenge is readChallenge.
func ReadChallenge(headers ...string) (string, error) { return readChallenge(headers) }
