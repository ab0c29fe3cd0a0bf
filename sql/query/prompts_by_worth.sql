-- The prompts that wait (pending_prompts.sql), those first that are worth most, for a job that may not pay for all of them: items
-- before users before pairs; items by their users, users by their events, pairs by their user's events and then their item's
-- users. Items and users that have not changed are answered already and do not wait.
-- Reads prompt_that_waits, item_audience and user_history. No parameters.
select p.*
from prompt_that_waits as p
left join item_audience as i on i.item_id = p.item_id
left join user_history as h on h.user_id = p.user_id
order by
    case p.kind when 'item' then 1 when 'history' then 2 else 3 end,
    h.n_events desc nulls last,
    i.n_users desc nulls last,
    p.prompt_key
