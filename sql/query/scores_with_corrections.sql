-- The rows of reason_score that user_feature reads, and one more for each correction: a corrected reason is one more of
-- the user's reasons, and a dropped one is not accepted. In no order.
-- Reads reason_score and reason_correction. No parameters.
select kind, user_id, item_id, accepted, score
from reason_score
union all
select
    'history' as kind,
    user_id,
    cast(null as varchar) as item_id,
    reason is not null as accepted,
    score
from reason_correction
