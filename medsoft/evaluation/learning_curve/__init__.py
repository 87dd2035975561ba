"""How a metric grows with the number of training patients, and what more of them would bring."""
