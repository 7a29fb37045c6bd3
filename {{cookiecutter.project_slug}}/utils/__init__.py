"""What every floor may use: errors, the device, seeds."""
