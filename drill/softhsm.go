package drill

import "errors"

type token struct{ conf string }

func newToken(dir string) (*token, error) { return nil, errors.New("none") }
func (t *token) uri() string              { return "" }
func (s *scene) smallDisk(string) error   { return nil }

type names struct{ address string }

func newNames(dir, uri string) (*names, error) { return nil, errors.New("none") }
func (n *names) forget() error                 { return nil }
func (n *names) know() error                   { return nil }
