"""Transfers between data nodes that this server looks after: queue, runner, REST."""
