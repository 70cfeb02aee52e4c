-- A sandbox may be STOPPING, STOPPED, STARTING or SUSPENDED. No column is new:
-- the version alone keeps an older AgentLab away, which would take a state that it
-- does not know for an end, and remove the machine.
SELECT 1;
