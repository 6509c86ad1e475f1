package model

// CheckBatch checks what a change of several objects at once asks for: the
// action enable, disable or delete, and at least one id. It returns each id
// once, in the order of ids.
func CheckBatch(action string, ids []int64) (unique []int64, err error) {
	switch action {
	case "enable", "disable", "delete":
	default:
		return nil, Invalid("action", "must be enable, disable or delete")
	}
	if len(ids) == 0 {
		return nil, Invalid("ids", "must name at least one object")
	}
	seen := make(map[int64]bool, len(ids))
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			unique = append(unique, id)
		}
	}
	return unique, nil
}
